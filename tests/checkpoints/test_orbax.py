# SPDX-License-Identifier: Apache-2.0
import json
import os

import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import nnx

from spectral_flax.checkpoints.orbax import read_orbax, write_orbax
from spectral_flax.checkpoints.weights import Weights, variables
from spectral_flax.models.record import ModelRecord

TENSORS = {
    "stage1.0.conv.kernel": np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32),
    "norm.scale": jnp.ones(3, jnp.bfloat16),
    "count": np.int32(3),
}


def test_read_inverts_write(tmp_path):
    weights = Weights(
        TENSORS, record=ModelRecord(model="resnet50", options={"blocks_at": {2: (1, 3)}})
    )
    write_orbax(tmp_path / "model.orbax", weights)
    found = read_orbax(tmp_path / "model.orbax")
    assert (found.names, found.model, found.options) == ("flax", "resnet50", weights.options)
    assert sorted(found.tensors) == sorted(TENSORS)
    for name, array in TENSORS.items():
        assert found.tensors[name].dtype == array.dtype
        np.testing.assert_array_equal(found.tensors[name], array)


def test_an_existing_directory_is_not_overwritten(tmp_path):
    write_orbax(tmp_path / "x", Weights(TENSORS))
    with pytest.raises(ValueError, match="already exists"):
        write_orbax(tmp_path / "x", Weights(TENSORS))


def test_a_state_of_flax_is_read_by_dotted_names(tmp_path):
    model = nnx.Sequential(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), nnx.BatchNorm(3, rngs=nnx.Rngs(0)))
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", nnx.state(model))
    found = read_orbax(tmp_path / "state").tensors
    for name, array in variables(model).items():
        np.testing.assert_array_equal(found[name], array)


def test_parameters_and_the_rest_of_a_training_run_are_joined(tmp_path):
    with ocp.CheckpointManager(tmp_path) as manager:
        items = {
            "params": ocp.args.StandardSave({"head.kernel": np.ones((2, 3))}),
            "rest": ocp.args.StandardSave({"norm.mean": np.zeros(3)}),
            "optimizer": ocp.args.StandardSave({"step": np.int32(7)}),
        }
        manager.save(7, args=ocp.args.Composite(**items))
    assert sorted(read_orbax(tmp_path / "7").tensors) == ["head.kernel", "norm.mean"]


def test_a_changed_number_is_noticed(tmp_path):
    write_orbax(tmp_path / "x", Weights(TENSORS))
    changed = {**TENSORS, "norm.scale": 2 * TENSORS["norm.scale"]}
    write_orbax(tmp_path / "y", Weights(changed))
    (tmp_path / "x" / "variables").rename(tmp_path / "moved")
    (tmp_path / "y" / "variables").rename(tmp_path / "x" / "variables")
    with pytest.raises(ValueError, match=r"x is damaged: 'norm\.scale'"):
        read_orbax(tmp_path / "x")


def test_missing_data_are_refused(tmp_path):
    write_orbax(tmp_path / "x", Weights(TENSORS))
    for path in (tmp_path / "x" / "variables").rglob("manifest.ocdbt"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="x can not be read as an Orbax checkpoint"):
        read_orbax(tmp_path / "x")


def test_a_damaged_description_is_refused(tmp_path):
    write_orbax(tmp_path / "x", Weights(TENSORS))
    (tmp_path / "x" / "about" / "metadata").write_text("{")
    with pytest.raises(ValueError, match="x is damaged"):
        read_orbax(tmp_path / "x")


def test_other_directories_are_refused(tmp_path):
    with pytest.raises(ValueError, match="not the directory of an Orbax checkpoint"):
        read_orbax(tmp_path)


def saved(path, **options):
    """Write a nested tree as Orbax does, in one of its four layouts; return the directory."""
    tree = {"a": {"kernel": TENSORS["stage1.0.conv.kernel"]}, "count": np.int32(3), "none": None}
    tree |= {"list": [np.ones(2), np.zeros(3)], "flag": True}
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(**options)) as checkpointer:
        checkpointer.save(path, args=ocp.args.PyTreeSave(tree))
    return path


def edited(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize("ocdbt", [True, False])
@pytest.mark.parametrize("zarr3", [True, False])
def test_every_layout_of_orbax_is_read(ocdbt, zarr3, tmp_path):
    found = read_orbax(saved(tmp_path / "x", use_ocdbt=ocdbt, use_zarr3=zarr3)).tensors
    assert sorted(found) == ["a.kernel", "count", "flag", "list.0", "list.1"]
    np.testing.assert_array_equal(found["a.kernel"], TENSORS["stage1.0.conv.kernel"])
    assert found["count"] == 3 and found["flag"] and not found["list.1"].any()


HUGE = [10**6, 10**6]


@pytest.mark.parametrize(
    ("array", "changes"),
    [
        ("a.kernel", {"shape": HUGE, "chunks": HUGE}),
        ("a.kernel", {"shape": HUGE}),
        ("a.kernel", {"chunks": HUGE}),
        ("a.kernel", {"shape": [4000, 1000], "chunks": [1, 1]}),
        ("count", {"shape": HUGE, "chunks": HUGE}),
        ("a.kernel", {"dtype": "|V1000000000"}),
        ("a.kernel", {"dtype": "|S1000000000"}),
        ("a.kernel", {"dtype": [["a", "<f4", [10**9]]]}),
        ("a.kernel", {"compressor": {"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1}}),
        ("a.kernel", {"fill_value": "1" * 10**6}),
        ("a.kernel", {"shape": [-1, 3]}),
        ("a.kernel", {"shape": None}),
    ],
    ids=str,
)
def test_arrays_out_of_proportion_to_their_files_are_refused(array, changes, tmp_path):
    path = saved(tmp_path / "x", use_ocdbt=False)
    edited(path / array / ".zarray", **changes)
    with pytest.raises(ValueError, match="x can not be read as an Orbax checkpoint") as caught:
        read_orbax(path)
    assert len(str(caught.value)) < 1500


@pytest.mark.parametrize(("outer", "inner"), [(HUGE, HUGE), ([20_000] * 2, [1, 1])])
def test_shards_out_of_proportion_to_their_files_are_refused(outer, inner, tmp_path):
    path = saved(tmp_path / "x", use_ocdbt=False, use_zarr3=True)
    file = path / "a.kernel" / "zarr.json"
    description = json.loads(file.read_text())
    description["chunk_grid"]["configuration"]["chunk_shape"] = outer
    description["codecs"][0]["configuration"]["chunk_shape"] = inner
    file.write_text(json.dumps(description))
    with pytest.raises(ValueError, match="out of proportion"):
        read_orbax(path)


LEAF = {"key_metadata": [{"key": "a"}], "value_metadata": {}}


@pytest.mark.parametrize(
    "text",
    [
        "[]", "{}", "null", "[" * 100_000, '{"tree_metadata": []}',
        '{"tree_metadata": {"a": null}}',
        json.dumps({"tree_metadata": {"a": {"key_metadata": [{"key": 3}], "value_metadata": {}}}}),
        json.dumps({"tree_metadata": {"a": LEAF | {"key_metadata": [{"key": "../../x"}]}}}),
        json.dumps({"tree_metadata": {"a": LEAF | {"key_metadata": [{"key": "a"}] * 3000}}}),
        json.dumps({"tree_metadata": {"a": LEAF | {"key_metadata": 3}}}),
        json.dumps({"tree_metadata": {"a": LEAF}}),
        "[" + "[]," * 2_500_000 + "1]",
    ],
    ids=lambda text: text[:80],
)  # fmt: skip
def test_records_of_wrong_types_are_refused(text, tmp_path):
    path = saved(tmp_path / "x", use_ocdbt=False)
    (path / "_METADATA").write_text(text)
    with pytest.raises(ValueError, match="x can not be read as an Orbax checkpoint"):
        read_orbax(path)


GOOD = {"names": "flax", "model": None, "options": "{}", "crc32": {}}


@pytest.mark.parametrize(
    "about",
    [
        [], {}, None, GOOD | {"names": "x"}, GOOD | {"names": ["flax"]}, GOOD | {"model": 3},
        GOOD | {"options": {}}, GOOD | {"options": "["}, GOOD | {"options": "[" * 100_000},
        GOOD | {"options": "[]"}, GOOD | {"crc32": []}, GOOD | {"crc32": {"norm.scale": None}},
        {"names": "flax"},
    ],
    ids=lambda about: str(about)[:80],
)  # fmt: skip
def test_descriptions_of_wrong_types_are_refused(about, tmp_path):
    write_orbax(tmp_path / "x", Weights(TENSORS))
    (tmp_path / "x" / "about" / "metadata").write_text(json.dumps(about))
    with pytest.raises(ValueError, match="x is damaged"):
        read_orbax(tmp_path / "x")


@pytest.mark.parametrize("file", ["_METADATA", "a.kernel/.zarray", "a.kernel/0.0"])
def test_pipes_and_devices_in_the_directory_are_refused_at_once(file, tmp_path):
    path = saved(tmp_path / "x", use_ocdbt=False)
    (path / file).unlink()
    os.mkfifo(path / file)
    with pytest.raises(ValueError, match="is not a regular file"):
        read_orbax(path)
    (path / file).unlink()
    (path / file).symlink_to("/dev/zero")
    with pytest.raises(ValueError, match="is not a regular file"):
        read_orbax(path)
