# SPDX-License-Identifier: Apache-2.0
"""``python -m spectral_flax`` is the command ``spectral-flax``."""

import sys

from spectral_flax.cli import main

sys.exit(main())
