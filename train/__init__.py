# SPDX-License-Identifier: Apache-2.0
"""Training: everything with side effects. Run it as ``python -m train configs/NAME.py``."""
