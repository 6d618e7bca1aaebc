# SPDX-License-Identifier: Apache-2.0
"""Inpainting: filling in the masked part of images."""
