# SPDX-License-Identifier: Apache-2.0
"""Names of published PyTorch entries: which of them make up each array of ours."""

import importlib
import pkgutil

from spectral_flax.checkpoints.names.tables import Rule, nested, register_rules, tables_for

__all__ = ["Rule", "nested", "register_rules", "tables_for"]

for _module in pkgutil.iter_modules(__path__, f"{__name__}."):  # each registers its tables
    importlib.import_module(_module.name)
