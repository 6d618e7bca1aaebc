# SPDX-License-Identifier: Apache-2.0
"""Command line and checks of a config."""
