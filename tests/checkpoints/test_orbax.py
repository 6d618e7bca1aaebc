# SPDX-License-Identifier: Apache-2.0
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import nnx

from spectral_flax.checkpoints.orbax import read_orbax, write_orbax
from spectral_flax.checkpoints.weights import Weights, variables

TENSORS = {
    "stage1.0.conv.kernel": np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32),
    "norm.scale": jnp.ones(3, jnp.bfloat16),
    "count": np.int32(3),
}


def test_read_inverts_write(tmp_path):
    weights = Weights(TENSORS, model="resnet50", options={"blocks_after": {2: (1, 3)}})
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
