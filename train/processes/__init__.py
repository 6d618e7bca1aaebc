# SPDX-License-Identifier: Apache-2.0
"""The processes of a run and the directory that they share."""
