# SPDX-License-Identifier: Apache-2.0
"""Names of functions and classes in a pickle: which mark it as an attack and are refused.

Nothing that a pickle names is ever imported or called, so no name is dangerous here. But a file
that names ``os.system`` was made to attack whoever reads it by other means, and is refused.

- The standard library: what holds data may be named and called; all else is refused.
- NumPy and PyTorch: classes, and the functions that their own pickles call, may be called; any
  function may be named (``torch.nn.functional.relu`` as an option), unless it loads or runs things.
- Other packages: everything, unless the last name says what it is (``eval``).
"""

import _compat_pickle
import builtins
import functools
import sys

import numpy as np

MAX_NAME = 1000  # characters

# Modules of the standard library that hold data and pure functions only.
_DATA = {
    *("__future__", "_collections", "_collections_abc", "_datetime", "_decimal", "_functools"),
    *("_hashlib", "_operator", "_pydatetime", "_pydecimal", "_random", "_sre", "_struct"),
    *("_weakrefset", "_zoneinfo", "abc", "argparse", "array", "base64", "bisect", "calendar"),
    *("cmath", "collections", "colorsys", "configparser", "contextlib", "copy", "copyreg", "csv"),
    *("dataclasses", "datetime", "decimal", "difflib", "enum", "errno", "fractions", "functools"),
    *("genericpath", "graphlib", "hashlib", "heapq", "html", "ipaddress", "itertools", "json"),
    *("locale", "math", "ntpath", "numbers", "operator", "optparse", "posixpath", "queue"),
    *("random", "re", "secrets", "sre_compile", "statistics", "string", "struct", "textwrap"),
    *("typing", "unicodedata", "uuid", "warnings", "zoneinfo"),
}
# Of other modules, these names.
_PLAIN = {
    "_codecs": {"encode"},
    "_io": {"BytesIO", "StringIO"},
    "codecs": {"decode", "encode"},
    "http": {"HTTPMethod", "HTTPStatus"},
    "inspect": {"BoundArguments", "Parameter", "Signature", "_ParameterKind", "_empty"},
    "io": {"BytesIO", "StringIO"},
    "logging": {"Filter", "Formatter", "Logger", "LogRecord", "RootLogger", "getLogger"}
    | {"NullHandler", "PercentStyle", "StrFormatStyle", "StreamHandler", "StringTemplateStyle"},
    "os": {"PathLike", "stat_result", "terminal_size"},
    "pathlib": {"Path", "PosixPath", "PurePath", "PurePosixPath", "PureWindowsPath", "WindowsPath"},
    "platform": {"uname_result"},
    "signal": {"Handlers", "Signals"},
    "socket": {"AddressFamily", "SocketKind"},
    "time": {"monotonic", "perf_counter", "struct_time", "time"},
    "traceback": {"FrameSummary", "StackSummary", "TracebackException"},
    "types": {"GenericAlias", "MappingProxyType", "MethodType", "NoneType", "SimpleNamespace"}
    | {"UnionType"},
    "urllib.parse": {"DefragResult", "ParseResult", "SplitResult"},
    "weakref": {"WeakKeyDictionary", "WeakSet", "WeakValueDictionary"},
    "xml.etree.ElementTree": {"Element"},
    "zlib": {"adler32", "crc32"},
}
_PLAIN["pathlib._local"] = _PLAIN["pathlib"]  # their home in Python 3.13
_NOT_PLAIN = {
    *("copyreg.add_extension", "copyreg.constructor", "copyreg.pickle", "argparse.FileType"),
    *("operator.attrgetter", "operator.methodcaller", "_operator.attrgetter"),
    "_operator.methodcaller",
}
_BUILTINS = {name for name, value in vars(builtins).items() if isinstance(value, type)} | {
    *("Ellipsis", "NotImplemented", "abs", "all", "any", "ascii", "bin", "callable", "chr"),
    *("divmod", "format", "getattr", "hasattr", "hash", "hex", "id", "isinstance", "issubclass"),
    *("iter", "len", "max", "min", "next", "oct", "ord", "pow", "print", "repr", "round"),
    *("sorted", "sum"),
}
# Modules that are, or were, made to run things, under whatever other name they are reached.
_RUNNERS = {"builtins", "ctypes", "importlib", "nt", "os", "posix", "pty", "shutil", "subprocess"}
_RUNNERS |= {"sys", "runpy", "socket"}
# Not, or no longer, in the standard library.
_OTHER_RUNNERS = {"commands", "distutils", "dl", "imp", "nntplib", "new", "pip", "pipes"}
_OTHER_RUNNERS |= {"popen2", "setuptools", "telnetlib", ""}
# Ways from an object to the interpreter, wherever they stand in a name.
_INNER = {"__base__", "__bases__", "__builtins__", "__class__", "__closure__", "__code__"}
_INNER |= {"__dict__", "__func__", "__getattribute__", "__globals__", "__import__", "__loader__"}
_INNER |= {"__mro__", "__reduce__", "__reduce_ex__", "__self__", "__spec__", "__subclasses__"}
_VERBS = {"eval", "exec", "execfile", "execv", "execve", "execvp", "fork", "import_module"}
_VERBS |= {"popen", "run_module", "run_path", "runstring", "spawn", "system", "_load_from_bytes"}
_VERBS |= {"CDLL", "Popen", "PyDLL", "WinDLL", "loads", "read_pickle"}
# NumPy and PyTorch.
_NUMPY = {"_frombuffer", "_mareconstruct", "_reconstruct", "_ufunc_reconstruct", "scalar"}
_NUMPY |= {name for name, value in vars(np).items() if isinstance(value, type)}
_TORCH = {"_get_layout", "device", "dtype", "finfo", "iinfo", "layout", "memory_format", "qscheme"}
_LOADERS = {"compile", "fromfile", "genfromtxt", "load", "loads", "loadtxt"}
_LOADING = ("torch._dynamo", "torch._inductor", "torch.fx", "torch.hub", "torch.jit")
_LOADING += ("torch.multiprocessing", "torch.package", "torch.serialization", "torch.utils.bottl")
_LOADING += ("torch.utils.collect_env", "torch.utils.cpp_extension", "numpy.ctypeslib")
_LOADING += ("numpy.distutils", "numpy.f2py", "numpy.lib.npyio", "numpy.testing")


def full_name(module: str, attribute: str) -> str:
    """Return the name of a global as Python 3 has it; raise ValueError for an endless one."""
    if len(module) + len(attribute) > MAX_NAME:
        raise ValueError(f"its pickle has a name of {len(module) + len(attribute)} characters")
    renamed = _compat_pickle.NAME_MAPPING.get((module, attribute))
    if renamed is None:
        renamed = _compat_pickle.IMPORT_MAPPING.get(module, module), attribute
    return ".".join(renamed)


@functools.lru_cache(1024)
def is_refused(name: str, *, called: bool = True) -> bool:
    """Whether a call, or else a mention, of ``name`` marks the file as an attack."""
    parts = name.split(".")
    top, module, attribute = parts[0], ".".join(parts[:-1]), parts[-1]
    if top in _OTHER_RUNNERS or attribute in _VERBS or not _INNER.isdisjoint(parts):
        return True
    through = any(part.lstrip("_") in _RUNNERS for part in parts[1:-1])  # random._os.remove
    if top in sys.stdlib_module_names:
        if top == "builtins":
            return through or parts[1] not in _BUILTINS
        plain = top in _DATA and name not in _NOT_PLAIN
        return through or not (plain or attribute in _PLAIN.get(module, ()))
    if attribute.lstrip("_")[:1].isupper():  # a class
        return False
    if through or top not in ("numpy", "torch"):
        return through or (called and attribute in _LOADERS)
    unpickler = attribute.endswith("_ctor") or attribute.startswith("__pyx_unpickle")
    known = attribute in _NUMPY or unpickler if top == "numpy" else attribute in _TORCH
    if known or attribute.startswith("_rebuild"):
        return False
    return called or attribute in _LOADERS or module.startswith(_LOADING)
