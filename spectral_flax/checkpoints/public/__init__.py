# SPDX-License-Identifier: Apache-2.0
"""Weights that others have published: which there are, and how they come here."""
