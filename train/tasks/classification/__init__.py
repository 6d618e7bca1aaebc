# SPDX-License-Identifier: Apache-2.0
"""Classification of images and videos."""
