import dataclasses
from pathlib import Path

import pytest

from spectral_flax.models.registry import MODELS
from train.command.line import load
from train.config import Mesh

TOY_CONFIG = Path(__file__).with_name("toy_config.py")


@pytest.fixture
def toy_path():
    return TOY_CONFIG


@pytest.fixture
def toy(monkeypatch, tmp_path):
    """Return a function from changes to the toy's config; no other test sees its model."""
    monkeypatch.setitem(MODELS, "toy", None)  # entered by the config, removed again by pytest
    config = load(TOY_CONFIG)

    defaults = {"workdir": str(tmp_path / "run"), "mesh": Mesh(devices=1)}  # one compiles faster

    def changed(**changes):
        return dataclasses.replace(config, **defaults | changes)

    return changed
