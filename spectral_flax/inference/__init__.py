# SPDX-License-Identifier: Apache-2.0
"""Image in, answer out: reading images, and predictions by a whole model."""
