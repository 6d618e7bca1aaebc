# SPDX-License-Identifier: Apache-2.0
"""Tables of names: which entries of a published PyTorch state dict make up each of our arrays."""

from spectral_flax.checkpoints.names import (  # noqa: F401  (they register tables)
    attention,
    bilinear,
    inpainting,
    pose,
    resnet,
    segmentation,
    spectral,
    video,
)
from spectral_flax.checkpoints.names.tables import Rule, nested, register_rules, tables_for

__all__ = ["Rule", "nested", "register_rules", "tables_for"]
