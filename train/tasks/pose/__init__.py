# SPDX-License-Identifier: Apache-2.0
"""Human pose estimation."""
