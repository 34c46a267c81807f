"""Networks for others: by names `glore_…` in timm, once this is imported."""

from glore.hub.backbones import BACKBONES as BACKBONES
