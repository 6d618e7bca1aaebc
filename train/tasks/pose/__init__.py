# SPDX-License-Identifier: Apache-2.0
"""Human pose: people in images, joints by heatmaps."""
