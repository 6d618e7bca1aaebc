# SPDX-License-Identifier: Apache-2.0
import pathlib
import zipfile

import ml_dtypes
import numpy as np
import pytest

from spectral_flax.checkpoints.torch.reader import read_torch
from spectral_flax.checkpoints.torch.tensors import DTYPES
from spectral_flax.checkpoints.torch.writer import write_torch

FILES = pathlib.Path(__file__).parent / "torch_files"


def expected() -> dict[str, np.ndarray]:
    with np.load(FILES / "expected.npz") as file:
        return dict(file)


def assert_same(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert list(found) == list(wanted)
    for name, array in wanted.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape, name
        np.testing.assert_array_equal(found[name], array, err_msg=name)


@pytest.mark.parametrize(
    ("file", "entry", "prefix"),
    [
        ("zip.pth", "", ""),
        ("legacy.pth", "", ""),
        ("views.pth", "", ""),
        ("parameter.pth", "", ""),
        ("data_parallel.pth.tar", "state_dict", "module."),
        ("model_state.pyth", "model_state", ""),
    ],
)
def test_files_of_pytorch_are_read_exactly(file, entry, prefix):
    checkpoint = read_torch(FILES / file)
    assert_same(checkpoint.tensors, expected())
    assert (checkpoint.entry, checkpoint.prefix) == (entry, prefix)
    assert checkpoint.foreign == checkpoint.skipped == ()


@pytest.mark.parametrize(
    ("file", "dtype"), [("half.pth", np.float16), ("bfloat16.pth", ml_dtypes.bfloat16)]
)
def test_sixteen_bit_files_keep_their_dtype(file, dtype):
    wanted = {k: v.astype(dtype) if v.dtype == np.float32 else v for k, v in expected().items()}
    assert_same(read_torch(FILES / file).tensors, wanted)


def test_foreign_objects_are_named_and_not_built():
    checkpoint = read_torch(FILES / "foreign_classes.ckpt")
    wanted = {f"generator.{name}": array for name, array in expected().items()}
    assert_same(checkpoint.tensors, wanted)
    assert checkpoint.foreign == ("argparse.Namespace", "omegaconf.dictconfig.DictConfig")
    assert checkpoint.metadata == {"epoch": 1, "global_step": 2}


@pytest.mark.parametrize("file", ["malicious.pth", "malicious_legacy.pth"])
def test_malicious_files_are_refused_and_run_nothing(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=rf"{file} is refused.*posix\.system"):
        read_torch(FILES / file)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"<html>quota exceeded</html>", "web page"),
        (b"  <!DOCTYPE html><p>", "web page"),
        (b"\x08\0\0\0\0\0\0\0{}      ", "safetensors file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"\x1f\x8b\x08\0", "gzip"),
        (b"\x89HDF\r\n", "HDF5"),
        (b'{"a": 1}', "JSON"),
        (b"\0" * 257 + b"ustar\0" + b"\0" * 100, "tar archive"),
        (b"PK\x05\x06" + b"\0" * 18, "zip archive without data.pkl"),
        (b"PK\x03\x04 and no more", "damaged or truncated zip archive"),
        (b"\x80\x02}.", "plain Python pickle"),
        (b"hello", "begins with b'hello'"),
    ],
)
def test_other_files_are_called_what_they_are(content, reason, tmp_path):
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"model.pth.*{reason}"):
        read_torch(path)


def test_directories_and_missing_files_are_named(tmp_path):
    with pytest.raises(ValueError, match="directory"):
        read_torch(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"absent\.pth"):
        read_torch(tmp_path / "absent.pth")


def test_numpy_archives_are_called_so(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.ones(3))
    with pytest.raises(ValueError, match="NumPy archive"):
        read_torch(tmp_path / "a.npz")


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("file", ["zip.pth", "legacy.pth", "views.pth"])
def test_truncated_files_are_refused(file, kept, tmp_path):
    data = (FILES / file).read_bytes()
    path = tmp_path / file
    path.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(ValueError, match=file):
        read_torch(path)


def test_arrays_are_read_only_because_they_may_share_memory():
    for array in read_torch(FILES / "views.pth").tensors.values():
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0


def all_dtypes() -> dict[str, np.ndarray]:
    numbers = np.random.default_rng(0).uniform(-50, 50, (3, 4))
    tensors = {
        f"x.{name}": numbers.astype(np.int64).astype(dtype) for name, dtype in DTYPES.items()
    }
    extra = {
        "empty": np.zeros((0, 3), np.float32),
        "scalar": np.asarray(7),
        "transposed": numbers.T,
        "größe": np.arange(300),
    }
    return tensors | extra


def test_write_torch_is_inverted_by_read_torch(tmp_path):
    write_torch(tmp_path / "model.pth", all_dtypes())
    assert_same(read_torch(tmp_path / "model.pth").tensors, all_dtypes())
    assert [path.name for path in tmp_path.iterdir()] == ["model.pth"]


def test_storages_are_aligned_in_the_file(tmp_path):
    write_torch(tmp_path / "model.pth", all_dtypes())
    with zipfile.ZipFile(tmp_path / "model.pth") as archive:
        for info in archive.infolist():
            assert (info.header_offset + 30 + len(info.filename) + len(info.extra)) % 64 == 0


def test_numbers_of_the_other_byte_order_are_turned(tmp_path):
    write_torch(tmp_path / "little.pth", all_dtypes())
    with (
        zipfile.ZipFile(tmp_path / "little.pth") as source,
        zipfile.ZipFile(tmp_path / "big.pth", "w") as target,
    ):
        arrays = list(all_dtypes().values())
        for info in source.infolist():
            data = source.read(info)
            if info.filename == "archive/byteorder":
                data = b"big"
            elif "/data/" in info.filename:
                array = arrays[int(info.filename.rpartition("/")[2])]
                word = array.dtype.itemsize // (2 if array.dtype.kind == "c" else 1)
                data = np.frombuffer(data, f"u{word}").byteswap().tobytes()
            target.writestr(info.filename, data)
    assert_same(read_torch(tmp_path / "big.pth").tensors, all_dtypes())


def test_files_saved_without_checksums_are_read(tmp_path):
    write_torch(tmp_path / "model.pth", expected())
    data = bytearray((tmp_path / "model.pth").read_bytes())
    for magic, offset in ((b"PK\x03\x04", 14), (b"PK\x01\x02", 16)):
        position = data.find(magic)
        while position >= 0:
            data[position + offset : position + offset + 4] = bytes(4)
            position = data.find(magic, position + 1)
    (tmp_path / "model.pth").write_bytes(data)
    assert_same(read_torch(tmp_path / "model.pth").tensors, expected())


def test_dtypes_that_pytorch_lacks_are_refused_before_a_file_is_begun(tmp_path):
    with pytest.raises(TypeError, match=r"tensors\['a'\] has dtype int4"):
        write_torch(tmp_path / "model.pth", {"a": np.ones(3, ml_dtypes.int4)})
    with pytest.raises(TypeError, match="dtype <U1"):
        write_torch(tmp_path / "model.pth", {"a": np.asarray("x")})
    assert not list(tmp_path.iterdir())
