# SPDX-License-Identifier: Apache-2.0
"""A run: its loop, its step, its optimiser and its devices."""
