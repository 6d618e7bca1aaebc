# SPDX-License-Identifier: Apache-2.0
"""Tables of names: which entries of a published PyTorch state dict make up each of our arrays."""

from spectral_flax.checkpoints.rules.tables import Rule, nested, register_rules, tables_for
from spectral_flax.checkpoints.rules import resnet  # noqa: F401  (registers its tables)

__all__ = ["Rule", "nested", "register_rules", "tables_for"]
