# SPDX-License-Identifier: Apache-2.0
"""Inpainting: images with holes to fill in."""
