# SPDX-License-Identifier: Apache-2.0
"""What a run shows and keeps for its user."""
