# SPDX-License-Identifier: Apache-2.0
"""Models as files that run without this library: ONNX, and StableHLO for JAX."""
