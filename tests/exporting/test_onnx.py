"""ONNX files of every family in onnxruntime; run where the extra ``onnx`` is installed."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from exporting_networks import FAMILIES, SIZE, network
from flax import nnx

import spectral_flax as sf
from spectral_flax.exporting import onnx as onnx_format
from spectral_flax.models.record import ModelRecord, Preprocessing

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("jax2onnx")
as_array = onnx.numpy_helper.to_array


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_the_same_in_onnxruntime(name, tmp_path):
    path, frames = tmp_path / "model.onnx", 4 if "c2d" in name else None
    size = (37, 45) if name == "lama" else SIZE
    (file,) = sf.export(network(name), path, size=size, frames=frames)
    assert file.error < 1e-5
    graph = onnx.load(path)
    assert {(o.domain, o.version) for o in graph.opset_import} == {("", onnx_format.OPSET)}
    assert not graph.functions and {node.domain for node in graph.graph.node} == {""}
    operators = {node.op_type for node in graph.graph.node}
    assert "DFT" not in operators and (name != "lama" or "Einsum" not in operators)
    assert not any(
        constant.data_type == onnx.TensorProto.BOOL for constant in graph.graph.initializer
    )
    values = [(c.dtype.str, c.shape, c.tobytes()) for c in map(as_array, graph.graph.initializer)]
    assert len(set(values)) == len(values)
    told = {entry.key: entry.value for entry in graph.metadata_props}["spectral_flax"]
    about = json.loads(told)
    assert told == path.with_name("model.onnx.json").read_text()
    session = onnxruntime.InferenceSession(path)
    assert [i.name for i in session.get_inputs()] == [i["name"] for i in about["inputs"]]
    assert [i.shape for i in session.get_inputs()] == [i["shape"] for i in about["inputs"]]
    assert [o.name for o in session.get_outputs()] == [about["output"]["name"]]


def test_a_file_fills_in_as_the_library_does_and_takes_its_own_size_only(tmp_path):
    model = sf.create_model("lama", width=8, blocks=1)
    (file,) = sf.export(model, tmp_path / "lama.onnx", size=(19, 30), batch=1)
    rng = np.random.default_rng(1)
    image, mask = (
        rng.integers(0, 256, (19, 30, 3), np.uint8),
        rng.integers(0, 2, (19, 30), np.uint8),
    )
    run = onnx_format.reader(file.path)
    filled = np.rint(run([image[None], mask[None]])[0])
    expected = sf.inpaint(model, image, mask).astype(np.float32)
    assert np.abs(filled - expected).max() <= 1
    np.testing.assert_array_equal(filled[mask == 0], image[mask == 0])
    for other in ([image[None, :8], mask[None, :8]], [np.stack([image] * 2), np.stack([mask] * 2)]):
        with pytest.raises(ValueError, match="Got invalid dimensions for input"):
            run(other)


def test_a_model_in_bfloat16_is_refused_with_the_reason(tmp_path):
    model = sf.create_model("resnet18", width=8, depths=(1,), num_classes=3, dtype="bfloat16")
    with pytest.raises(ValueError, match=r"onnxruntime does not run the file: .*bfloat16"):
        sf.export(model, tmp_path / "m.onnx", size=(16, 16), batch=1)
    assert not list(tmp_path.iterdir())


class Eigenvalues(nnx.Module):
    """What ONNX has no operator for."""

    record = ModelRecord(preprocessing=Preprocessing(input_size=(8, 8)))

    def __call__(self, x):
        return jnp.linalg.eigvalsh(x[0, ..., 0])[None]


def test_an_operation_that_the_format_lacks_is_named_with_its_place(tmp_path):
    with pytest.raises(ValueError, match=r"ONNX lacks the operation 'eigh' \(.*test_onnx.py, line"):
        sf.export(Eigenvalues(), tmp_path / "m.onnx", batch=1)
    assert not list(tmp_path.iterdir())
