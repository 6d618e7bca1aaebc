# SPDX-License-Identifier: Apache-2.0
import json
import os

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from spectral_flax.checkpoints.records import record_from_json, record_to_json
from spectral_flax.checkpoints.safetensors import DTYPES, read_safetensors, write_safetensors
from spectral_flax.checkpoints.weights import Weights
from spectral_flax.models.record import ModelRecord

NUMBERS = np.random.default_rng(0).integers(-50, 50, (3, 4))


def assert_same(found, wanted):
    assert sorted(found) == sorted(wanted)
    for name, array in wanted.items():
        array = np.asarray(array)
        assert found[name].dtype == array.dtype and found[name].shape == array.shape, name
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def all_dtypes():
    tensors = {f"a.{name}": NUMBERS.astype(dtype) for name, dtype in DTYPES.items()}
    extra = {"empty": np.zeros((0, 3)), "scalar": np.float32(7), "transposed": NUMBERS.T}
    return tensors | extra | {"jax": jnp.ones((2, 3), jnp.bfloat16)}


@pytest.mark.parametrize("names", ["flax", "torch"])
def test_read_inverts_write(names, tmp_path):
    write_safetensors(tmp_path / "x.safetensors", Weights(all_dtypes(), names))
    weights = read_safetensors(tmp_path / "x.safetensors")
    assert weights.names == names and weights.model is None
    assert_same(weights.tensors, all_dtypes())
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]


def test_the_model_and_its_options_are_kept(tmp_path):
    options = {"blocks_at": {2: (1, 3)}, "ratio": 0.25, "lfu": True, "dtype": "bfloat16"}
    weights = Weights({"w": NUMBERS}, record=ModelRecord(model="resnet50_bat", options=options))
    write_safetensors(tmp_path / "x.safetensors", weights)
    found = read_safetensors(tmp_path / "x.safetensors")
    assert (found.model, found.options) == ("resnet50_bat", options)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.dtype("bfloat16"), np.float16, np.float32])
def test_options_keep_dtypes_by_name(dtype):
    text = record_to_json(ModelRecord(model="resnet18", options={"dtype": dtype}))
    assert record_from_json(text).options["dtype"] == jnp.dtype(dtype).name


def test_options_without_a_written_form_are_refused():
    with pytest.raises(TypeError, match="option block="):
        record_to_json(ModelRecord(model="resnet18", options={"block": print}))


def file_of(header, data=b"", length=None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(dtype="F32", shape=(2,), begin=0, end=8) -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def test_the_published_layout_is_read(tmp_path):
    header = {"__metadata__": {"format": "pt"}, "w": entry(), "b": entry("BF16", (1, 1), 8, 10)}
    data = np.float32([1, -2]).tobytes() + np.asarray([3], ml_dtypes.bfloat16).tobytes()
    (tmp_path / "x.safetensors").write_bytes(file_of(header, data))
    weights = read_safetensors(tmp_path / "x.safetensors")
    assert weights.names == "torch"
    assert weights.tensors["w"].tolist() == [1, -2] and weights.tensors["b"].tolist() == [[3]]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "truncated"),
        (b"<html>", "truncated, or another kind"),
        (b"PK\x03\x04 a zip archive", "another kind"),
        (file_of({"w": entry()}), "8 bytes are missing"),
        (file_of({"w": entry()}, bytes(9)), "1 bytes follow"),
        (file_of({"w": entry(begin=4, end=12)}, bytes(12)), "expected 0"),
        (file_of({"w": entry(), "v": entry(begin=4, end=12)}, bytes(12)), "expected 8"),
        (file_of({"w": entry(shape=(3,))}, bytes(8)), "does not agree"),
        (file_of({"w": entry(shape=(-2,))}, bytes(8)), "does not agree"),
        (file_of({"w": entry(shape=(True, 2))}, bytes(8)), "does not agree"),
        (file_of({"w": entry(shape=(2**62, 0))}, bytes(8)), "does not agree"),
        (file_of({"w": entry(dtype="F4")}, bytes(8)), "unknown dtype"),
        (file_of({"w": 3}, bytes(8)), "not described"),
        (file_of([], b""), "not a JSON object"),
        (file_of(b'{"w": ', b""), "Expecting value"),
        (file_of(b'{"w":1,"w":1}', b""), "twice"),
        (file_of(b"[" * 100_000, b""), "recursion"),
        (file_of({}, b"", length=2**63), "another kind"),
    ],
)
def test_damaged_files_are_refused(content, reason, tmp_path):
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=rf"x\.safetensors.*{reason}"):
        read_safetensors(tmp_path / "x.safetensors")


def test_directories_are_named(tmp_path):
    with pytest.raises(ValueError, match="directory"):
        read_safetensors(tmp_path)


def test_dtypes_without_a_name_are_refused_before_a_file_is_begun(tmp_path):
    with pytest.raises(TypeError, match=r"tensors\['c'\] has dtype complex128"):
        write_safetensors(tmp_path / "x.safetensors", Weights({"c": np.ones(2, complex)}))
    assert not list(tmp_path.iterdir())


def test_names_are_ours_or_those_of_pytorch():
    with pytest.raises(ValueError, match="names='keras'"):
        Weights({}, names="keras")


def with_metadata(metadata) -> bytes:
    return file_of({"__metadata__": metadata, "w": entry()}, bytes(8))


def ours(**changes) -> dict:
    """Return the metadata of a file of this library, with changes."""
    return {"format": "spectral_flax", "model": "resnet18", "options": "{}"} | changes


METADATA = [
    (3, "__metadata__ is 3; expected texts by name"),
    (None, "__metadata__ is None"),
    ([], r"__metadata__ is \[\]; expected"),
    ("x" * 10_000, "__metadata__ is x{200}\\.\\.\\.; expected"),
    ({"format": 3}, "__metadata__ is a dict; expected texts by name"),
    (ours(model=""), "its model is ''; expected the name of a model"),
    (ours(model="a\x1b[31m"), r"its model is 'a\\x1b\[31m'; expected"),
    (ours(model="m" * 100_000), "its model is 'm{200}\\.\\.\\.'; expected"),
    (ours(options="3"), "the options of a model are 3; expected a JSON object"),
    (ours(options="[1]"), r"the options of a model are \[1\]; expected"),
    (ours(options="{"), "Expecting property name"),
    (ours(options='{"a b": 1}'), "an option is called 'a b'"),
    (ours(options='{"a": 1, "a": 2}'), "names the entry 'a' twice"),
    (ours(options='{"a": {"1": 1, "1": 2}}'), "names the entry '1' twice"),
    (ours(options='{"a": ' + "[" * 40 + "]" * 40 + "}"), "nested more than 16 deep"),
    (ours(options='{"a": ' + "[" * 99_999), "nested too deeply"),
    (ours(options='{"a": ' + "9" * 5000 + "}"), "Exceeds the limit"),
    (ours(options=" " * (1 << 20) + "{}"), "longer than 1048576 bytes"),
]


@pytest.mark.parametrize(("metadata", "told"), METADATA, ids=[told for _, told in METADATA])
def test_metadata_of_another_kind_is_refused_in_a_short_line(metadata, told, tmp_path):
    (tmp_path / "x.safetensors").write_bytes(with_metadata(metadata))
    with pytest.raises(ValueError, match=rf"x\.safetensors.*{told}") as caught:
        read_safetensors(tmp_path / "x.safetensors")
    assert len(str(caught.value).splitlines()) == 1 and len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (file_of(b'{"\xff": 1}'), r"not UTF-8 \(byte 2\)"),
        (file_of(b'{"w":1,"w":1}'), "names the entry 'w' twice"),
        (file_of({"n" * 9999: 3}), "'n{200}\\.\\.\\.' is not described"),
        (file_of({"a\nb": entry(dtype="x\n" * 99)}), r"'a\\nb' has the unknown dtype"),
        (file_of(b" " * (9 << 20)), "it swells: 9437192 bytes of file may take"),
    ],
)
def test_headers_are_bounded_and_told_in_a_short_line(content, told, tmp_path):
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=told) as caught:
        read_safetensors(tmp_path / "x.safetensors")
    assert len(str(caught.value).splitlines()) == 1 and len(str(caught.value)) < 400


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="a named pipe, not a regular file"):
        read_safetensors(tmp_path / "x.safetensors")
