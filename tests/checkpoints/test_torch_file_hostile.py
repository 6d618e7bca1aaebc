# SPDX-License-Identifier: Apache-2.0
import collections
import io
import pathlib
import pickle
import zipfile

import numpy as np
import pytest

from evidence.mutate_checkpoint import mutate
from spectral_flax.checkpoints.torch import pickle_machine
from spectral_flax.checkpoints.torch.pickle_machine import is_refused
from spectral_flax.checkpoints.torch.reader import read_torch

FILES = pathlib.Path(__file__).parent / "torch_files"


class Call:
    """Pickles as a call of ``module.name`` with the given arguments."""

    def __init__(self, module, name, *args, state=None):
        self.call = module, name, args, state


class Id:
    """Pickles as a persistent id."""

    def __init__(self, *pid):
        self.pid = pid


class Function:
    """Pickles as the name of a function."""

    def __init__(self, module, name):
        self.__module__, self.__qualname__ = module, name


class Pickler(pickle._Pickler):
    """Python's pickler, made to write calls of functions that do not exist here."""

    dispatch = pickle._Pickler.dispatch.copy()

    def save_call(self, value):
        module, name, args, state = value.call
        self.write(f"c{module}\n{name}\n".encode())
        self.save(tuple(args))
        self.write(pickle.REDUCE)
        if state is not None:
            self.save(state)
            self.write(pickle.BUILD)

    def save_function(self, value):
        self.write(f"c{value.__module__}\n{value.__qualname__}\n".encode())

    def save_id(self, value):
        self.save(value.pid, save_persistent_id=False)
        self.write(pickle.BINPERSID)

    dispatch[Call], dispatch[Function], dispatch[Id] = save_call, save_function, save_id


def pickled(value) -> bytes:
    buffer = io.BytesIO()
    Pickler(buffer, 2).dump(value)
    return buffer.getvalue()


def storage(key="0", count=6, kind="FloatStorage"):
    return Id("storage", Function("torch", kind), key, "cpu", count)


def tensor(shape=(2, 3), strides=(3, 1), offset=0, **options):
    args = (storage(**options), offset, shape, strides, False, collections.OrderedDict())
    return Call("torch._utils", "_rebuild_tensor_v2", *args)


def archive(path, root, entries=None, data=None) -> pathlib.Path:
    """Write a zip archive around a pickle (or the pickle's bytes) with one storage of 6 floats."""
    numbers = np.arange(6, dtype=np.float32).tobytes()
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/data.pkl", root if isinstance(root, bytes) else pickled(root))
        for name, content in (entries or {"a/data/0": numbers}).items():
            file.writestr(name, content)
    return path


def test_the_archives_made_here_are_read(tmp_path):
    path = archive(tmp_path / "x.pth", {"w": tensor(), "n": 3})
    np.testing.assert_array_equal(
        read_torch(path).tensors["w"], np.arange(6, dtype=np.float32).reshape(2, 3)
    )
    assert read_torch(path).skipped == ("n",)


@pytest.mark.parametrize(
    "call",
    [
        Call("os", "system", "true"),
        Call("builtins", "eval", "1"),
        Call("__builtin__", "exec", "1"),
        Call("subprocess", "Popen", ["true"]),
        Call("importlib", "import_module", "os"),
        Call("builtins", "getattr", Function("os", "system"), "x"),
        Call("builtins", "__import__", "os"),
        Call("torch.hub", "load", "a", "b"),
        Call("torch.serialization", "load", "a"),
        Call("torch.storage", "_load_from_bytes", b"x"),
        Call("numpy", "load", "a"),
        Call("pickle", "loads", b"x"),
        Call("webbrowser", "open", "x"),
    ],
    ids=lambda call: ".".join(call.call[:2]),
)
def test_calls_that_no_checkpoint_needs_are_refused(call, tmp_path):
    path = archive(tmp_path / "x.pth", {"state_dict": {"w": tensor()}, "other": [call]})
    with pytest.raises(ValueError, match=r"x\.pth is refused, and nothing in it was run"):
        read_torch(path)


@pytest.mark.parametrize(
    "call",
    [
        Call("mmengine.config", "Config", {"a": 1}, state={"b": 2}),
        Call("__main__", "Options", 1),
        Call("datetime", "datetime", b"x"),
        Call("numpy._core.multiarray", "scalar", Call("numpy", "dtype", "f8"), b"x"),
        Call("collections", "deque", [1]),
        Call("builtins", "getattr", Function("omegaconf", "Mode"), "strict"),
    ],
    ids=lambda call: ".".join(call.call[:2]),
)
def test_data_of_unknown_classes_is_named_and_stays_unbuilt(call, tmp_path):
    path = archive(tmp_path / "x.pth", {"state_dict": {"w": tensor()}, "other": call})
    checkpoint = read_torch(path)
    assert list(checkpoint.tensors) == ["w"] and checkpoint.foreign


def test_a_foreign_object_among_the_weights_is_reported(tmp_path):
    path = archive(tmp_path / "x.pth", {"w": tensor(), "bias": Call("lib", "Secret")})
    checkpoint = read_torch(path)
    assert checkpoint.skipped == ("bias",) and checkpoint.foreign == ("lib.Secret",)


def test_the_result_of_a_call_is_never_called(tmp_path):
    body = b"\x80\x02}X\x01\0\0\0wclib\nfactory\n)R)Rs."
    with pytest.raises(ValueError, match="calls the result of another call"):
        read_torch(archive(tmp_path / "x.pth", body))


@pytest.mark.parametrize(
    ("damaged", "reason"),
    [
        (tensor(shape=(2, 4), strides=(4, 1)), "reaches element 7 of a storage that has 6"),
        (tensor(offset=1), "reaches element 6"),
        (tensor(strides=(10**9, 1)), "reaches element"),
        (tensor(shape=(10**15,), strides=(0,)), "absurd shape"),
        (tensor(shape=(10**9,), strides=(0,)), "is spread over 24 bytes only"),
        (tensor(shape=(0, 2**60), strides=(1, 1)), "absurd shape"),
        (tensor(shape=(-2, 3)), "has shape"),
        (tensor(strides=(-3, 1), offset=3), "strides"),
        (tensor(shape=(2, 3, 1)), "shape"),
        (tensor(shape=(1,) * 65, strides=(1,) * 65), "shape"),
        (tensor(shape=("2", 3)), "not what torch.save writes"),
        (tensor(shape=(True, 3)), "not what torch.save writes"),
        (tensor(count=7), "24 bytes, not 28"),
        (tensor(count=10**20), "elements"),
        (tensor(count=-1), "elements"),
        (tensor(key="../0"), "elements"),
        (tensor(key="1"), "lacks the entry a/data/1"),
        (tensor(kind="QInt8Storage"), "no array form"),
        (Call("torch._utils", "_rebuild_sparse_tensor", 1), "'w' is not a dense tensor"),
        (Call("torch._utils", "_rebuild_tensor_v2", 1), "damaged"),
        (Call("torch._utils", "_rebuild_tensor_v2", 1, 0, (1,), (1,)), "damaged"),
        (Id("storage", "x"), "not a storage"),
        (Id(1), "not a storage"),
    ],
)
def test_hostile_tensors_are_refused(damaged, reason, tmp_path):
    with pytest.raises(ValueError, match=rf"x\.pth.*{reason}"):
        read_torch(archive(tmp_path / "x.pth", {"w": damaged}))


def test_tensors_without_elements_may_have_any_strides(tmp_path):
    path = archive(tmp_path / "x.pth", {"w": tensor(shape=(0, 3), strides=(5, 7), offset=9)})
    assert read_torch(path).tensors["w"].shape == (0, 3)


def test_expanded_tensors_keep_their_values(tmp_path):
    path = archive(tmp_path / "x.pth", {"w": tensor(shape=(4, 5), strides=(0, 1))})
    np.testing.assert_array_equal(
        read_torch(path).tensors["w"], np.tile(np.arange(5, dtype=np.float32), (4, 1))
    )


NESTED = {
    "lists": b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".",
    "tuples": b"\x80\x02)" + b"\x85" * 200_000 + b".",
    "marks": b"\x80\x02" + b"(" * 200_000,
    "keys": b"\x80\x02})" + b"\x85" * 200_000 + b"K\x01s.",
    "objects": b"\x80\x02" + b"clib\nThing\n" * 50_000 + b")R" + b"\x85R" * 49_999 + b".",
    "itself": b"\x80\x02}q\x00X\x05\0\0\0modelh\x00s.",
    "laughs": b"\x80\x02]q\x00" + b"".join(
        b"](h%ch%ceq%c" % (i, i, i + 1) for i in range(60)
    ) + b"0" * 60 + b".",
}  # fmt: skip


@pytest.mark.parametrize("name", NESTED)
def test_deep_or_circular_nesting_is_refused_without_recursion(name, tmp_path):
    with pytest.raises(ValueError, match=r"x\.pth"):
        read_torch(archive(tmp_path / "x.pth", NESTED[name]))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b".",
        b"\x80\x02.",
        b"\x80\x02}",
        b"\x80\x09}.",
        b"\x80\x02}0.",
        b"\x80\x02h\x05.",
        b"\x80\x02K\x01K\x01b.",
        b"\x80\x02(}u0.",
        b"\x80\x02]K\x01K\x02s.",
        b"\x80\x02}K\x01(u.",
        b"\x80\x02\x82\x01.",
        b"\x80\x02X\xff\xff\xff\xffabc",
        b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7fabc",
        b"\x80\x02\x8b\xff\xff\xff\x7f1",
        b"L" + b"9" * 5000 + b"L\n.",
        b"}.}.",
    ],
)
def test_malformed_pickles_are_refused(body, tmp_path):
    with pytest.raises(ValueError, match=r"x\.pth"):
        read_torch(archive(tmp_path / "x.pth", body))


def test_pickles_of_endless_length_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(pickle_machine, "MAX_OPCODES", 1000)
    with pytest.raises(ValueError, match="more than 1000 instructions"):
        read_torch(archive(tmp_path / "x.pth", b"\x80\x02" + b"}0" * 600 + b"}."))


def test_archives_that_swell_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pth", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(
            "a/data.pkl", pickled({"w": tensor(shape=(2**25,), strides=(1,), count=2**25)})
        )
        file.writestr("a/data/0", bytes(2**27))
    with pytest.raises(ValueError, match="swells"):
        read_torch(tmp_path / "x.pth")


def test_compressed_archives_are_read(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pth", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a/data.pkl", pickled({"w": tensor()}))
        file.writestr("a/data/0", np.arange(6, dtype=np.float32).tobytes())
    assert read_torch(tmp_path / "x.pth").tensors["w"][1, 2] == 5


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_archives_with_two_entries_of_one_name_are_refused(tmp_path):
    path = archive(tmp_path / "x.pth", {"w": tensor()})
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("a/data/0", bytes(24))
    with pytest.raises(ValueError, match="two entries of one name"):
        read_torch(path)


def test_two_sets_of_weights_are_chosen_between_by_entry(tmp_path):
    weights = {"generator": {"w": tensor()}, "critic": {"module.v": tensor()}}
    path = archive(tmp_path / "x.pth", weights)
    with pytest.raises(ValueError, match="choose one by entry=: 'generator', 'critic'"):
        read_torch(path)
    assert list(read_torch(path, entry="critic").tensors) == ["v"]
    with pytest.raises(ValueError, match="no entry 'other'; it has the entries generator, critic"):
        read_torch(path, entry="other")


def test_modules_saved_whole_give_their_state(tmp_path):
    leaf = Call("torch.nn", "Conv2d", state={
        "_parameters": {"weight": tensor(), "bias": None}, "_buffers": {}, "_modules": {},
    })  # fmt: skip
    state = {"_parameters": {}, "_buffers": {"mean": tensor()}, "_modules": {"conv": leaf}}
    path = archive(tmp_path / "x.pth", Call("lib", "Net", state=state))
    assert list(read_torch(path).tensors) == ["mean", "conv.weight"]


@pytest.mark.parametrize(
    "name",
    ["zip.pth", "legacy.pth", "malicious.pth", "malicious_legacy.pth", "foreign_classes.ckpt"],
)
def test_random_damage_is_refused_or_harmless(name):
    result = mutate(FILES / name, 60, seed=7)
    allowed = {"refused", "identical"}
    if "legacy" in name:  # this format has no checksums: a changed number stays a number
        allowed |= {"other numbers", "other names"}
    assert set(result["outcomes"]) <= allowed
    assert not result["executed"] and result["slowest_seconds"] < 5


def test_every_dangerous_module_is_refused():
    for name in (
        "os.system",
        "posix.popen",
        "nt.system",
        "sys.exit",
        "shutil.rmtree",
        "ctypes.CDLL",
    ):
        assert is_refused(name)
    for name in ("argparse.Namespace", "timm.models.Net", "torch.optim.sgd.SGD", "torch.device"):
        assert not is_refused(name)
