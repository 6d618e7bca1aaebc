# SPDX-License-Identifier: Apache-2.0
"""From the words of the command line to a checked config."""
