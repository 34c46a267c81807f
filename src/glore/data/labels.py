"""What the labels of pixels mean, to those who write them and to those who count them."""

from __future__ import annotations

IGNORED = 255  # the label of pixels that count for nothing
INSTANCE = 256  # a label is a class, plus this many times the instance to which the pixel belongs, 0 for none
MOST = 1000  # instances of a class in a picture; an instance is this many times (its class + 1), plus its number
