# SPDX-License-Identifier: Apache-2.0
"""What stands beside the weights or among them: honest neighbours stay unbuilt."""

import collections
import datetime
import decimal
import enum
import functools
import io
import logging
import operator
import pathlib
import pickle
import random
import re
import types
import typing
import uuid
import zoneinfo

import numpy as np
import pytest

from spectral_flax.checkpoints.torch.pickle_names import full_name, is_refused
from spectral_flax.checkpoints.torch.reader import read_torch
from tests.checkpoints.test_torch_file_hostile import (
    Call,
    Function,
    archive,
    pickled,
    storage,
    tensor,
)


class Colour(enum.Enum):
    RED = 1


class Mode(enum.IntFlag):
    FAST = 1


class Outer:
    class Inner:
        def __init__(self):
            self.x = 1

    def method(self): ...

    @classmethod
    def make(cls): ...


class Keyword:
    def __new__(cls, *, a):
        return object.__new__(cls)

    def __getnewargs_ex__(self):
        return (), {"a": 1}


HONEST = {
    "range": range(3),
    "UserDict": collections.UserDict(a=1),
    "ChainMap": collections.ChainMap({}),
    "Counter": collections.Counter("ab"),
    "defaultdict": collections.defaultdict(list, a=[1]),
    "Generator": np.random.default_rng(1),
    "RandomState": np.random.RandomState(1),
    "SeedSequence": np.random.SeedSequence(3),
    "random": random.Random(1),
    "Optional": typing.Optional[int],  # noqa: UP045
    "union": int | str,
    "list[int]": list[int],
    "Callable": typing.Callable[[int], str],
    "regex": re.compile("a.*"),
    "zone": datetime.datetime(2020, 1, 1, tzinfo=zoneinfo.ZoneInfo("UTC")),
    "logger": logging.getLogger("x"),
    "root logger": logging.getLogger(),
    "bound method": Outer().method,
    "class method": Outer.make,
    "method of a dictionary": {}.__getitem__,
    "nested class": Outer.Inner(),
    "keywords": Keyword(a=1),
    "enum": Colour.RED,
    "flag": Mode.FAST,
    "namespace": types.SimpleNamespace(a=1),
    "path": pathlib.PurePosixPath("a"),
    "decimal": decimal.Decimal("1.5"),
    "uuid": uuid.UUID(int=3),
    "partial": functools.partial(int, base=2),
    "itemgetter": operator.itemgetter(1),
    "function": len,
    "NumPy function": np.mean,
    "ufunc": np.add,
    "masked array": np.ma.masked_array([1], [0]),
    "NumPy date": np.datetime64("2020"),
    "buffer": io.BytesIO(b"a"),
    "exception": KeyError("a"),
    "NoneType": type(None),
    "iterator": iter([1]),
}


@pytest.mark.parametrize("protocol", [2, 3, 5])
@pytest.mark.parametrize("name", HONEST)
def test_honest_neighbours_are_no_hindrance(name, protocol, tmp_path):
    value, weights = pickle.dumps(HONEST[name], protocol), pickled({"w": tensor()})
    body = b"\x80\x05}(X\x05\0\0\0other" + value[2:-1] + b"X\x05\0\0\0model" + weights[2:-1] + b"u."
    assert list(read_torch(archive(tmp_path / "x.pth", body)).tensors) == ["w"]


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (b"c__builtin__\nxrange\n(I1\nI2\nI3\ntR", "builtins.range"),
        (b"(iUserDict\nUserDict\n(dp1\nb", "collections.UserDict"),
        (b"ccopy_reg\n_reconstructor\n(clib\nOld\nc__builtin__\nobject\nNtR", "lib.Old"),
        (b"c__builtin__\nset\n((lI1\natR", "builtins.set"),
        (b"cexceptions\nValueError\n(S'a'\ntR", "builtins.ValueError"),
        (b"cConfigParser\nSafeConfigParser\n)R", "configparser.SafeConfigParser"),
    ],
)
def test_names_of_python_2_mean_those_of_python_3(value, name, tmp_path):
    weights = pickled({"w": tensor()})[2:-1]
    body = b"\x80\x02}(X\x05\0\0\0other" + value + b"X\x05\0\0\0model" + weights + b"u."
    checkpoint = read_torch(archive(tmp_path / "x.pth", body))
    assert list(checkpoint.tensors) == ["w"] and checkpoint.foreign == (name,)


SYSTEM = Function("os", "system")


@pytest.mark.parametrize(
    "value",
    [
        SYSTEM,
        [SYSTEM],
        Call("functools", "partial", SYSTEM),
        Call("functools", "partial", Call("functools", "partial", Function("builtins", "eval"))),
        Call("collections", "defaultdict", SYSTEM),
        Call("builtins", "map", SYSTEM, ["true"]),
        Call("types", "MethodType", SYSTEM, 1),
        Call("lib", "Thing", state={"callback": SYSTEM}),
        Call("torch._utils", "_rebuild_parameter", SYSTEM),
        Call("torch._tensor", "_rebuild_from_type_v2", SYSTEM, 1, ("true",), {}),
        Call("copyreg", "_reconstructor", Function("subprocess", "Popen"), 1, None),
        Call("functools", "partial", Function("torch", "load"), "x"),
        Call("functools", "partial", Function("torch.hub", "load"), "x"),
        Call("builtins", "getattr", Function("random", "_os"), "remove"),
        Call("builtins", "getattr", Function("lib", "function"), "__globals__"),
        Call("builtins", "getattr", Call("lib", "Thing"), "__class__"),
        Function("random", "_os.remove"),
        Function("lib", "sys.exit"),
        Call("operator", "methodcaller", "system"),
    ],
)
def test_dangerous_names_are_refused_wherever_they_stand(value, tmp_path):
    path = archive(tmp_path / "x.pth", {"model": {"w": tensor()}, "other": value})
    with pytest.raises(ValueError, match=r"x\.pth is refused, and nothing in it was run"):
        read_torch(path)


def test_what_runs_code_is_refused_by_name_and_what_holds_data_is_not():
    for name in (
        *("builtins.exec", "builtins.open", "builtins.setattr", "builtins.__import__", "os._exit"),
        *("runpy.run_path", "timeit.timeit", "cProfile.run", "code.InteractiveInterpreter"),
        *("bdb.Bdb", "pydoc.pipepager", "logging.FileHandler", "logging.config.dictConfig"),
        *("pathlib.Path.unlink", "types.CodeType", "types.FunctionType", "time.sleep"),
        *("marshal.loads", "pip._internal.main", "distutils.spawn.spawn", "imp.load_source"),
        *("numpy.load", "numpy.testing._private.utils.runstring", "torch.load", "dill.loads"),
        *("torch.utils.collect_env.run", "multiprocessing.Process", "urllib.request.urlopen"),
    ):
        assert is_refused(name) and is_refused(name, called=False)
    for name in (
        *("torch.nn.functional.relu", "torch.nn.init.trunc_normal_", "numpy.mean", "lib.collate"),
        *("torch.serialization._get_layout", "builtins.len", "math.sqrt", "re._compile"),
        *("yacs.config.CfgNode", "omegaconf.DictConfig", "pytorch_lightning.trainer.Trainer"),
    ):
        assert not is_refused(name, called=False)
    assert is_refused("torch.nn.functional.relu")  # called, which no pickle does
    assert full_name("commands", "getoutput") == "subprocess.getoutput"


def conjugated():
    view = (storage(), 0, (6,), (1,), False, collections.OrderedDict(), {"conj": True})
    return Call("torch._utils", "_rebuild_tensor_v2", *view)


QUANTISED = Call(
    "torch._utils", "_rebuild_qtensor", storage("1", kind="QInt8Storage"), 0, (6,), (1,),
    (Function("torch", "per_tensor_affine"), 1.0, 0), False, collections.OrderedDict(),
)  # fmt: skip
UNREAD = {
    "quantised": QUANTISED,
    "conjugated": conjugated(),
    "other storage": tensor(kind="QUInt8Storage", key="1"),
    "sparse": Call("torch._utils", "_rebuild_sparse_tensor", 1),
}


@pytest.mark.parametrize("kind", UNREAD)
def test_tensors_without_a_dense_form_hinder_no_others(kind, tmp_path):
    other = {"model": {"w": tensor()}, "other": UNREAD[kind]}
    assert read_torch(archive(tmp_path / "x.pth", other)).skipped == ()
    checkpoint = read_torch(archive(tmp_path / "x.pth", {"w": tensor(), "q": UNREAD[kind]}))
    assert list(checkpoint.tensors) == ["w"] and checkpoint.skipped == ("q",)
    assert checkpoint.unread["q"].startswith("not a dense tensor")
    with pytest.raises(ValueError, match="'q' is not a dense tensor"):
        read_torch(archive(tmp_path / "x.pth", {"q": UNREAD[kind]}))


ARRAYS = {
    "matrix": np.arange(6, dtype=np.float32).reshape(2, 3),
    "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "big-endian": np.arange(3, dtype=">i4"),
    "scalar": np.float64(1.5),
    "flag": np.bool_(True),
    "empty": np.zeros((0, 3), np.complex64),
}


@pytest.mark.parametrize("protocol", [2, 5])
def test_numpy_arrays_among_the_weights_are_read_with_them(protocol, tmp_path):
    arrays = pickle.dumps(ARRAYS, protocol)[2:-1]
    weights = pickled({"w": tensor()})[3:-1].removeprefix(b"q\x00")
    for rest in (weights, b""):  # also where there is no tensor at all
        path = archive(tmp_path / "x.pth", b"\x80\x05" + arrays + rest + b".")
        found = read_torch(path).tensors
        for name, array in ARRAYS.items():
            np.testing.assert_array_equal(found[name], array)
            assert found[name].dtype == array.dtype.newbyteorder("=")
            assert not found[name].flags.writeable


@pytest.mark.parametrize("array", [np.array([None]), np.array(["a"]), np.zeros(1, "i4,f4")])
def test_numpy_arrays_that_hold_no_numbers_are_named(array, tmp_path):
    arrays = pickle.dumps({"a": array, "b": np.ones(2)}, 2)
    checkpoint = read_torch(archive(tmp_path / "x.pth", arrays))
    assert list(checkpoint.tensors) == ["b"] and checkpoint.skipped == ("a",)
    assert "which holds no numbers" in checkpoint.unread["a"]


def test_a_numpy_scalar_beside_the_weights_is_not_taken_for_them(tmp_path):
    best = Call("numpy.core.multiarray", "scalar", Call("numpy", "dtype", "f8"), bytes(8))
    path = archive(tmp_path / "x.pth", {"best": best, "generator": {"w": tensor()}})
    assert read_torch(path).entry == "generator"


def test_an_entry_may_be_a_name_with_dots_or_hold_a_wrapper(tmp_path):
    weights = {"G.ema": {"state_dict": {"w": tensor()}}, "D": {"v": tensor()}, 3: {"u": tensor()}}
    path = archive(tmp_path / "x.pth", weights)
    assert read_torch(path, entry="G.ema").entry == "G.ema.state_dict"
    assert list(read_torch(path, entry="D").tensors) == ["v"]
    assert list(read_torch(path, entry="3").tensors) == ["u"]
