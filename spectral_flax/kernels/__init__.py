# SPDX-License-Identifier: Apache-2.0
"""How XLA is made to compute well: without this package, only speed and placement would change.

`batch_parallel` keeps what XLA's partitioner would gather (FFTs on jax before 0.12, grouped
convolutions) on each device's own examples; `pencils` computes along both sides of maps whose rows
devices share; the forms of convolutions are for CPUs.
`plain_convolutions` switches to JAX's own convolution, ``whole_maps(False)`` to what is fast where
devices share the rows of maps.
"""

from spectral_flax.kernels.convolution import plain_convolutions, whole_maps

__all__ = ["plain_convolutions", "whole_maps"]
