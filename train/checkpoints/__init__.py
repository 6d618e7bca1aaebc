# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of a run, and weights that it starts from."""
