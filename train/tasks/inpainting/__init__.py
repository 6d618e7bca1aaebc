# SPDX-License-Identifier: Apache-2.0
"""Inpainting of masked images."""
