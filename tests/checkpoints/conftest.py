# SPDX-License-Identifier: Apache-2.0
"""A file as they are published."""

import pytest

import spectral_flax as sf
from spectral_flax.checkpoints.torch.writer import write_torch
from tests.checkpoints.small_network import SMALL


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """A narrow network's file, and the network."""
    model = sf.create_model("resnet18", **SMALL)
    path = tmp_path_factory.mktemp("public") / "small.pth"
    write_torch(path, sf.save_torch(model))
    return path.read_bytes(), model
