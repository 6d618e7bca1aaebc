# SPDX-License-Identifier: Apache-2.0
"""The published forms in PyTorch, to measure against; parameters bear the published names.

`benchmarks.peers.validate` compares them with the published numbers of tests/parity; the suites
refuse to time a form that fails.
"""
