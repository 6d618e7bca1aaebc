# SPDX-License-Identifier: Apache-2.0
"""How XLA is made to compute well: without this package, only speed and placement would change."""
