# SPDX-License-Identifier: Apache-2.0
"""Inference, image in, answer out: readers of images, classification, poses, inpainting."""
