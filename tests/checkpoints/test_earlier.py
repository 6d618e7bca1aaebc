"""Names of earlier files, and parts of networks with blocks at other places."""

import pathlib

import numpy as np
import pytest

import spectral_flax as sf
from spectral_flax.checkpoints import hub, orbax, records, safetensors, weights
from spectral_flax.checkpoints.earlier import current_names, current_options
from spectral_flax.checkpoints.parts import inserted_in, without_inserted


def test_positions_shift_by_the_inserted_blocks_before_them():
    names = {
        "stage2.0.conv1.kernel": "stage2.0.conv1.kernel",
        "inserted.stage2_0.gate": "stage2.1.gate",
        "stage2.1.conv1.kernel": "stage2.2.conv1.kernel",
        "stage2.2.conv1.kernel": "stage2.3.conv1.kernel",
        "inserted.stage2_2.gate": "stage2.4.gate",
        "stage2.10.conv1.kernel": "stage2.12.conv1.kernel",
        "stage3.1.conv1.kernel": "stage3.1.conv1.kernel",
        "head.kernel": "head.kernel",
    }
    assert current_names(names) == names


def test_what_stands_before_a_stage_stays():
    names = ["state.0.trace.inserted.stage2_0.gate", "encoder.stage2.1.conv1.kernel"]
    assert list(current_names(names).values()) == [
        "state.0.trace.stage2.1.gate",
        "encoder.stage2.2.conv1.kernel",
    ]


def test_names_of_today_stay():
    names = ["stage2.0.conv1.kernel", "stage2.1.gate", "stage2.2.conv1.kernel", "blocks.0.gate"]
    assert current_names(names) == {name: name for name in names}


def test_no_two_names_become_one():
    names = [f"inserted.stage1_{i}.gate" for i in (0, 2, "00", "x")]
    names += [f"{before}stage1.{i}.conv1.kernel" for before in ("", "a.") for i in range(4)]
    assert len(set(current_names(names).values())) == len(names)


def test_inserted_blocks_are_told_from_residual_ones():
    arrays = {"stage1.0.conv1.k": 0, "stage1.1.gate": 1, "stage1.2.conv1.k": 2, "stage1.2.se.k": 3}
    assert inserted_in(arrays) == ["stage1.1"]
    assert without_inserted(arrays) == {
        "stage1.0.conv1.k": 0,
        "stage1.1.conv1.k": 2,
        "stage1.1.se.k": 3,
    }


@pytest.mark.parametrize("kind", ["resnet", "pose"])
def test_orbax_and_hub_folders_of_earlier_versions_load(kind, tmp_path, monkeypatch):
    source = pathlib.Path(__file__).parents[1] / "earlier" / f"{kind}.safetensors"
    with monkeypatch.context() as patch:  # to read names and options as they are in the file
        patch.setattr(safetensors, "with_current_names", dict)
        patch.setattr(records, "current_options", dict)
        stored = safetensors.read_safetensors(source)
    assert any("inserted." in name or "blocks." in name for name in stored.tensors)
    orbax.write_orbax(tmp_path / "model.orbax", stored)
    hub.write_folder(tmp_path / "folder", stored)
    expected = weights.variables(sf.load(source))
    for path in ("model.orbax", "folder"):
        found = weights.variables(sf.load(tmp_path / path))
        assert found.keys() == expected.keys()
        for name, array in found.items():
            np.testing.assert_array_equal(array, expected[name], err_msg=name)


def test_options_have_the_names_of_today():
    options = dict(blocks_after={2: (0,)}, head_window=None, stem_margin=1, width=8)
    current = dict(blocks_at={2: (0,)}, head_pool_size=None, stem_pool_padding=1, width=8)
    assert current_options(options) == current
    assert current_options(current) == current
    assert current_options(dict(places=("a/up1",))) == dict(blocks_at=("a/up1",))


def test_blocks_of_a_decoder_are_in_the_mapping_of_all_blocks():
    places = dict(blocks_after={2: (0,)}, decoder_blocks=(1,))
    assert current_options(places) == dict(blocks_at={2: (0,), "decoder": (1,)})
    assert current_options(dict(decoder_blocks=())) == dict(blocks_at={"decoder": ()})
    assert current_options(places | dict(decoder_blocks=None)) == dict(blocks_at={2: (0,)})
