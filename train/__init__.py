# SPDX-License-Identifier: Apache-2.0
"""Training: everything with side effects. Run it as ``spectral-flax train CONFIG.py``."""

import importlib.util

for _name in (
    "absl",
    "annotated_types",
    "grain",
    "matplotlib",
    "optax",
    "orbax",
    "tensorstore",
    "tyro",
):
    if importlib.util.find_spec(_name) is None:
        raise ModuleNotFoundError(
            f'training needs the package {_name}: pip install "spectral-flax[train]"', name=_name
        )
