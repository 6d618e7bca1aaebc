# SPDX-License-Identifier: Apache-2.0
"""Training: everything with side effects. Run it as ``spectral-flax train CONFIG.py``."""
