# SPDX-License-Identifier: Apache-2.0
"""Segmentation: images with a class for every pixel."""
