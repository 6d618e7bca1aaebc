# SPDX-License-Identifier: Apache-2.0
"""One label an image or clip."""
