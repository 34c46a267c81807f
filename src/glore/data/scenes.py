"""From a picture and its labels to a segmentation network's input and target."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from glore.data.labels import IGNORED
from glore.data.transforms import Preset, check_statistics

Pair = tuple[Tensor, Tensor | None]


class Scenes:
    """In training, scaled by chance, cropped, mirrored and recoloured, picture and labels alike; in testing, whole.

    Args:
        crop: height and width of what the network sees in training, in pixels; what a picture lacks is filled with the
            colour `mean`, recoloured as the picture is, and counts for nothing.
        scale: least and greatest factor of the size before the crop.
        jitter: greatest change of brightness, contrast and saturation, as a share.
        mean: of the channels, taken from values in [0, 1]; ImageNet's by default, in a recipe what the network's
            pretrained weights were made with.
        std: of the channels; likewise.

    Raises:
        ValueError: an argument is out of range.
    """

    MEAN, STD = Preset.MEAN, Preset.STD

    def __init__(
        self,
        crop: Sequence[int] = (512, 512),
        scale: Sequence[float] = (0.5, 2.0),
        jitter: float = 0.4,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        mean, std = check_statistics(mean or self.MEAN, std or self.STD)
        if len(crop) != 2 or min(crop) < 1:
            raise ValueError(f"crop={list(crop)} must be a height and a width of at least 1 pixel")
        if len(scale) != 2 or not 0 < scale[0] <= scale[1]:
            raise ValueError(f"scale={list(scale)} must be a least and a greatest factor, above 0")
        if not 0 <= jitter < 1:
            raise ValueError(f"jitter={jitter} must be a share in [0, 1)")
        self.size, self.mean, self.std = tuple(crop), mean, std
        self.normalize = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)])
        fill = {tv_tensors.Image: [round(255 * value) for value in mean], tv_tensors.Mask: IGNORED}
        self.random = v2.Compose(
            [
                _RandomScale(scale),
                v2.RandomCrop(tuple(crop), pad_if_needed=True, fill=fill),
                v2.RandomHorizontalFlip(),
                *([v2.ColorJitter(jitter, jitter, jitter)] if jitter else []),
            ]
        )

    def __call__(self, training: bool) -> Callable[[Image.Image, np.ndarray | None], Pair]:
        """The transform of training, or of testing: an RGB picture and labels to tensors (3, h, w) and (h, w)."""
        return self._training if training else self._testing

    def _training(self, picture: Image.Image, labels: np.ndarray | None) -> Pair:
        image = tv_tensors.Image(F.pil_to_tensor(picture))
        if labels is None:
            return self.normalize(self.random(image)).as_subclass(Tensor), None
        mask = tv_tensors.Mask(labels.astype(np.uint8))  # a third of the time of int64
        image, mask = self.random(image, mask)
        return self.normalize(image).as_subclass(Tensor), mask.as_subclass(Tensor).long()

    def _testing(self, picture: Image.Image, labels: np.ndarray | None) -> Pair:
        image = self.normalize(F.pil_to_tensor(picture))
        return image, None if labels is None else torch.from_numpy(labels).long()


class _RandomScale(v2.Transform):  # type: ignore[misc]  # torchvision is untyped
    """Scales by a factor that is drawn evenly."""

    def __init__(self, scale: Sequence[float]) -> None:
        super().__init__()
        self.scale = scale

    def make_params(self, flat_inputs: list[Tensor]) -> dict[str, list[int]]:
        factor = float(torch.empty(()).uniform_(*self.scale))
        return {"size": [max(1, round(factor * side)) for side in F.get_size(flat_inputs[0])]}

    def transform(self, inpt: Tensor, params: dict[str, list[int]]) -> Tensor:
        if not isinstance(inpt, tv_tensors.Mask):
            return F.resize(inpt, params["size"], antialias=True)
        exact = v2.InterpolationMode.NEAREST_EXACT  # of centres, as the picture's; torchvision takes corners for masks
        return tv_tensors.wrap(F.resize_image(inpt[None], params["size"], exact)[0], like=inpt)
