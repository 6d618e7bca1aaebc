# SPDX-License-Identifier: Apache-2.0
"""Progress, metrics, plots and profiles of a run."""
