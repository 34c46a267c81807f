"""Samples, masks and maps as pictures: arrays of frames, (t, h, w, 3) uint8, whose t is 1 but for clips."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

from glore.weights import files

LONGEST = 384  # pixels a side of a frame on a page
SMALLEST = 160  # pixels of width of a frame in a grid; smaller ones are enlarged
GAP, LINE, FONT = 8, 18, 13  # pixels between a grid's frames, of a caption, and of its letters
FRAME_MS = 250  # of an animation


def picture(sample: Tensor) -> np.ndarray:
    """A sample (c, *space), stretched to the full range."""
    frames = sample[:, None] if sample.dim() == 3 else sample  # (c, t, h, w)
    if frames.shape[0] != 3:
        frames = frames.float().mean(0, keepdim=True).expand(3, -1, -1, -1)
    low, high = frames.amin(), frames.amax()
    stretched = (frames - low) / (high - low).clamp_min(1e-12)
    return (255 * stretched).round().to(torch.uint8).permute(1, 2, 3, 0).numpy()


def mask(labels: Tensor, palette: bytes) -> np.ndarray:
    """Labels (*space) in a palette of three bytes a class, or else grey."""
    frames = labels[None] if labels.dim() == 2 else labels
    table = np.full((256, 3), 128, np.uint8)
    known = np.frombuffer(palette, np.uint8).reshape(-1, 3)
    table[: len(known)] = known
    return table[frames.numpy().astype(np.uint8)]


def overlay(sample: Tensor, weights: Tensor, extent: Sequence[float]) -> np.ndarray:
    """A map (*space) over a sample (c, *space) of any size: red above the map's median, blue below.

    Args:
        sample: as a network takes it.
        weights: the map.
        extent: what the map covers along each axis of space, as a share of the sample, at least 1.
    """
    grey = picture(sample).mean(3, keepdims=True, dtype=np.float32) / 255
    apart = weights - weights.median()
    apart = apart / apart.abs().max().clamp_min(1e-12)
    apart = apart[None] if apart.dim() == 2 else apart  # (t, h, w)
    t, h, w = grey.shape[:3]
    covered = [t, round(h * extent[-2]), round(w * extent[-1])]
    smooth = F.interpolate(apart[None, None].float(), covered, mode="trilinear", align_corners=False)[0, 0, :, :h, :w]
    value = smooth.clamp(-1, 1).numpy()[..., None]  # (t, h, w, 1)
    colour = np.where(value > 0, *np.array([[1.0, 0.35, 0.25], [0.25, 0.5, 1.0]], np.float32))
    share = 0.85 * np.abs(value)
    return (255 * (grey * 0.75 * (1 - share) + colour * share)).round().astype(np.uint8)


def strip(frames: np.ndarray) -> Image.Image:
    """Frames side by side, each made smaller if it is large."""
    tiles = [Image.fromarray(frame) for frame in frames]
    for tile in tiles:
        tile.thumbnail((LONGEST, LONGEST), Image.Resampling.BOX)
    wide, high = tiles[0].size
    joined = Image.new("RGB", (wide * len(tiles), high))
    for i, tile in enumerate(tiles):
        joined.paste(tile, (i * wide, 0))
    return joined


def data_url(image: Image.Image) -> str:
    """A picture as a PNG in a `data:` address."""
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def grid(rows: Sequence[Sequence[tuple[np.ndarray, str]]]) -> list[Image.Image]:
    """Rows of frames, each with its caption below; a picture for each frame.

    Args:
        rows: of frames of one size, (t, h, w, 3), and their captions.
    """
    count, high, wide, _ = rows[0][0][0].shape
    scale = math.ceil(SMALLEST / wide) if wide < SMALLEST else min(1.0, LONGEST / max(high, wide))
    high, wide = round(high * scale), round(wide * scale)
    resample = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX
    size = (GAP + max(map(len, rows)) * (wide + GAP), GAP + len(rows) * (high + LINE + GAP))
    pages = []
    for t in range(count):
        page = Image.new("RGB", size, "white")
        draw = ImageDraw.Draw(page)
        for i, row in enumerate(rows):
            for j, (frames, caption) in enumerate(row):
                x, y = GAP + j * (wide + GAP), GAP + i * (high + LINE + GAP)
                page.paste(Image.fromarray(frames[t]).resize((wide, high), resample), (x, y))
                draw.text((x, y + high + 2), caption, "#333", ImageFont.load_default(FONT))
        pages.append(page)
    return pages


def save(pages: Sequence[Image.Image], path: Path) -> Path:
    """Save a picture as a PNG, or several as an animated GIF, and return the path with its ending."""
    first, *rest = pages
    path = path.with_name(f"{path.name}.{'gif' if rest else 'png'}")
    with files.replacing(path) as draft:
        if rest:
            first.save(draft, "GIF", save_all=True, append_images=rest, duration=FRAME_MS, loop=0)
        else:
            first.save(draft, "PNG", optimize=True)
    return path
