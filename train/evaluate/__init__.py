# SPDX-License-Identifier: Apache-2.0
"""Evaluation of saved runs and of weights on held-out examples."""
