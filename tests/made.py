"""Data sets and networks that tests name by class path."""

import os

import numpy as np
import torch
from pytorch_lightning import Callback
from torch import nn
from torch.utils.data import Dataset

from glore.data.images import ImageFolder
from glore.data.scenes import Scenes
from glore.data.segments import SegmentFolder
from glore.data.transforms import Small


class Blobs(Dataset):
    """Pictures of one colour each, which anything learns at once."""

    classes = ("red", "green", "blue", "grey")

    def __init__(self, split, root="", shift=1):
        self.shift = shift
        self.count = {"train": 80, "val": 20, "test": 40}[split]

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        label = index % 4
        picture = 0.1 * torch.randn(3, 16, 16)
        picture[slice(None) if label == 3 else label] += self.shift
        return picture, label


class Own(ImageFolder):
    """Pictures by a preset that is no argument."""

    def __init__(self, split: str, root: str):
        super().__init__(split, root, Small(32))


class Arrays(SegmentFolder):
    """Scenes whose masks are arrays of numpy."""

    def __getitem__(self, index):
        picture, mask = super().__getitem__(index)
        return picture, mask.numpy()


class Masked(Dataset):
    """Scenes by a preset, of a class that has nothing in common with the library's."""

    def __init__(self, split: str, root: str, preset: Scenes):
        self.scenes = SegmentFolder("train" if split == "train" else "val", root, preset=preset)
        self.classes = self.scenes.classes

    def __len__(self):
        return len(self.scenes)

    def __getitem__(self, index):
        return self.scenes[index]


class Signal(Callback):
    """Sends this process a signal in its second epoch."""

    def __init__(self, number: int):
        self.number = number

    def on_train_batch_start(self, trainer, task, batch, index):
        if trainer.current_epoch == 1:
            os.kill(os.getpid(), self.number)


class Noise(Dataset):
    """Scenes of noise from numpy's random state, with a label in one pixel only; every eighth has none."""

    classes = ("a", "b", "c")

    def __init__(self, split):
        self.split = split

    def __len__(self):
        return 48

    def __getitem__(self, index):
        labels = np.full((8, 8), 255)
        if index % 8:
            labels[0, 0] = index % 3
        return np.random.rand(1, 8, 8).astype(np.float32), None if self.split == "test" else labels


class Waves(Dataset):
    """Sequences of two frequencies."""

    classes = ("slow", "fast")

    def __init__(self, split):
        pass

    def __len__(self):
        return 32

    def __getitem__(self, index):
        label = index % 2
        return torch.sin(torch.linspace(0, 20 * (1 + label), 64))[None] + 0.1 * torch.randn(1, 64), label


def sequence_classifier(width: int) -> nn.Module:
    import glore

    layers = [nn.Conv1d(1, width, 5), nn.ReLU(), glore.GloRe1d(width), nn.AdaptiveAvgPool1d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(width, 2))


def hungry_builder(mib: int) -> nn.Module:
    """A convolution, whose making needs that much memory for a moment."""
    torch.ones(mib, 2**18)
    return nn.Conv2d(3, 64, 3)
