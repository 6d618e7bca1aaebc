# SPDX-License-Identifier: Apache-2.0
"""Options of inpainting."""

import dataclasses
from typing import Any

from train.fields import Count, NonNegative, Path
from train.task import TaskOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(TaskOptions):
    """Weights of the losses, as published, 0 leaves one out; discriminator, encoder and masks."""

    l1_known: NonNegative = 10.0
    """Weight of the absolute difference where the image is known."""
    l1_missing: NonNegative = 0.0
    """Weight of the absolute difference where it is missing."""
    adversarial: NonNegative = 10.0
    """Weight of the generator's loss against the discriminator."""
    gradient_penalty: NonNegative = 0.001
    """Weight of the discriminator's squared gradient at real images (R1)."""
    feature_matching: NonNegative = 100.0
    """Weight of the difference of the discriminator's feature maps."""
    perceptual: NonNegative = 0.0
    """Weight of the difference of an encoder's feature maps; needs the encoder."""
    discriminator_width: Count = 64
    """Channels of the discriminator's first convolution."""
    discriminator_layers: Count = 4
    """Convolutions of the discriminator before its last."""
    encoder_model: str | None = None
    """Network whose feature maps the perceptual loss compares."""
    encoder_weights: Path | None = None
    """File of its weights."""
    encoder_options: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Options of that network."""
    test_masks: str | None = None
    """Masks to test with, such as thick_512, one of LaMa's published six; None: as in training."""
    distort: bool = False
    """Warp and recolour training photographs as LaMa's training did (image_folder)."""
