"""What a predictor is built for: the shape of its images and of its outputs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class NetShape:
    """Outputs [B, num_outputs] of images [B, channels, image_size, image_size]."""

    num_outputs: int
    channels: int
    image_size: int
