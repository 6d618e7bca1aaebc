# SPDX-License-Identifier: Apache-2.0
"""Pickles read as data: an interpreter of the pickle format that imports and calls nothing.

Python's own unpickler turns a file into calls of whatever functions the file names. This one knows
lists, dictionaries and scalars; a call in the file becomes a `Foreign` value that records what
would have been called, unless the reader supplies a builder for that very name. Calls into the
standard library that no honest checkpoint makes (``os.system``, ``builtins.eval``) are refused
outright, so that a file made to attack is not mistaken for one with a missing entry.
"""

import dataclasses
import pickletools
import sys
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

# A state dict takes about thirty opcodes a tensor; an empty container weighs 64 times its opcode.
MAX_OPCODES = 5_000_000

Builder = Callable[[tuple], Any]


class Unsafe(ValueError):
    """A pickle that calls functions which have no place in a checkpoint."""


@dataclasses.dataclass(frozen=True)
class Global:
    """A class or function named by a pickle, never imported."""

    name: str


@dataclasses.dataclass(eq=False, repr=False)
class Foreign:
    """An object of a class that is not known here: its name and its data, never built."""

    name: str
    args: tuple
    state: Any = None
    items: list = dataclasses.field(default_factory=list)

    def __repr__(self) -> str:
        return f"<object of {self.name}>"


# Classes of the standard library that carry data only; everything else there is refused.
_PLAIN = {
    "argparse": {"Namespace"},
    "builtins": {"bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "int"}
    | {"list", "object", "range", "set", "slice", "str", "tuple"},
    "_codecs": {"encode"},
    "collections": {"Counter", "OrderedDict", "defaultdict", "deque"},
    "copyreg": {"_reconstructor"},
    "datetime": {"date", "datetime", "time", "timedelta", "timezone"},
    "decimal": {"Decimal"},
    "fractions": {"Fraction"},
    "functools": {"partial"},
    "pathlib": {"Path", "PosixPath", "PurePath", "PurePosixPath", "PureWindowsPath", "WindowsPath"},
    "random": {"Random"},
    "types": {"SimpleNamespace"},
    "uuid": {"UUID"},
}
_PYTHON2 = {"__builtin__": "builtins", "copy_reg": "copyreg", "UserDict": "collections"}
_NUMPY = {"_reconstruct", "scalar", "dtype", "ndarray", "_frombuffer"}
_TORCH = {"device", "dtype", "_get_layout"}


def is_refused(name: str) -> bool:
    """Whether a call of ``name`` marks the file as an attack rather than as unfamiliar."""
    module, _, attribute = name.rpartition(".")
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names or top in ("commands", ""):
        return attribute not in _PLAIN.get(module, ())
    if top in ("numpy", "torch") and not attribute[:1].isupper():  # a function, not a class
        random_state = module.startswith("numpy.random") and attribute.endswith("_ctor")
        rebuild = attribute.startswith("_rebuild")
        known = _NUMPY if top == "numpy" else _TORCH
        return not (attribute in known or random_state or rebuild)
    return False


def read_pickle(
    file: BinaryIO, builders: Mapping[str, Builder], persistent: Callable[[Any], Any]
) -> Any:
    """Return the value of the pickle at the file's position, leaving the file just after it.

    ``builders`` maps the full name of a callable to a function of its arguments; ``persistent``
    maps a persistent id to a value. Raises `Unsafe` for a call that is refused and ValueError for
    anything that is not a well-formed pickle.
    """
    machine = _Machine(builders, persistent)
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
            if count > MAX_OPCODES:
                raise ValueError(f"its pickle has more than {MAX_OPCODES} instructions")
            machine.step(opcode.name, argument)
    except (IndexError, KeyError, TypeError, OverflowError, AttributeError) as error:
        raise ValueError(f"its pickle is damaged ({type(error).__name__}: {error})") from error
    return machine.stack.pop()


class _Machine:
    """The pickle stack machine, without recursion: nesting in the file costs no stack here."""

    def __init__(self, builders: Mapping[str, Builder], persistent: Callable[[Any], Any]):
        self.builders, self.persistent = builders, persistent
        self.stack: list = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        if name in _PUSH:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name]())
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self.top()
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = self.top()
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        else:
            handler = getattr(self, "op_" + name.lower(), None)
            if handler is None:
                raise ValueError(f"its pickle uses {name}, which no checkpoint does")
            handler(argument)

    def top(self) -> Any:
        self._check_mark(1)
        return self.stack[-1]

    def pop(self) -> Any:
        self._check_mark(1)
        return self.stack.pop()

    def _check_mark(self, count: int) -> None:
        if len(self.stack) - (self.marks[-1] if self.marks else 0) < count:
            raise ValueError("its pickle is damaged (the stack runs empty)")

    def pop_mark(self) -> list:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    # Structure.

    def op_proto(self, version: int) -> None:
        if version > 5:
            raise ValueError(f"its pickle has protocol {version}; protocols to 5 are known")

    def op_frame(self, _) -> None:
        """Frames only help buffering."""

    def op_stop(self, _) -> None:
        if len(self.stack) != 1 or self.marks:
            raise ValueError("its pickle is damaged (it ends inside a value)")

    def op_mark(self, _) -> None:
        self.marks.append(len(self.stack))

    def op_pop(self, _) -> None:
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self.stack.pop()

    def op_pop_mark(self, _) -> None:
        self.pop_mark()

    def op_dup(self, _) -> None:
        self.stack.append(self.top())

    # Containers.

    def op_tuple(self, _) -> None:
        self.stack.append(tuple(self.pop_mark()))

    def _tuple(self, size: int) -> None:
        self._check_mark(size)
        items = tuple(self.stack[-size:])
        self.stack[-size:] = [items]

    def op_tuple1(self, _) -> None:
        self._tuple(1)

    def op_tuple2(self, _) -> None:
        self._tuple(2)

    def op_tuple3(self, _) -> None:
        self._tuple(3)

    def op_list(self, _) -> None:
        self.stack.append(self.pop_mark())

    op_frozenset = op_list  # sets stay lists: their elements may not be hashable here

    def op_dict(self, _) -> None:
        items = self.pop_mark()
        self.stack.append({})
        self._set_items(items)

    def op_append(self, _) -> None:
        item = self.pop()
        self._extend([item])

    def op_appends(self, _) -> None:
        self._extend(self.pop_mark())

    op_additems = op_appends

    def _extend(self, items: list) -> None:
        target = self.top()
        if not isinstance(target, list | Foreign):
            raise ValueError(f"its pickle appends to a {type(target).__name__}")
        (target.items if isinstance(target, Foreign) else target).extend(items)

    def op_setitem(self, _) -> None:
        value = self.pop()
        self._set_items([self.pop(), value])

    def op_setitems(self, _) -> None:
        self._set_items(self.pop_mark())

    def _set_items(self, items: list) -> None:
        target, pairs = self.top(), zip(items[::2], items[1::2], strict=True)
        if isinstance(target, Foreign):
            target.items.extend(pairs)
        elif isinstance(target, dict):
            for key, value in pairs:
                target[checked_key(key)] = value
        else:
            raise ValueError(f"its pickle sets items of a {type(target).__name__}")

    # Names, calls and outside references.

    def op_global(self, argument: str) -> None:
        module, _, attribute = argument.partition(" ")
        self.stack.append(_named(module, attribute))

    def op_stack_global(self, _) -> None:
        attribute, module = self.pop(), self.pop()
        if not isinstance(module, str) or not isinstance(attribute, str):
            raise ValueError("its pickle is damaged (a name is not a text)")
        self.stack.append(_named(module, attribute))

    def op_reduce(self, _) -> None:
        args = self.pop()
        self.stack.append(self.call(self.pop(), args))

    op_newobj = op_reduce

    def op_newobj_ex(self, _) -> None:
        named = self.pop()
        args = self.pop()
        self.stack.append(self.call(self.pop(), (*args, named)))

    def op_obj(self, _) -> None:
        function, *args = self.pop_mark()
        self.stack.append(self.call(function, tuple(args)))

    def op_inst(self, argument: str) -> None:
        args = tuple(self.pop_mark())
        self.op_global(argument)
        self.stack.append(self.call(self.pop(), args))

    def call(self, function: Any, args: Any) -> Any:
        """Return what stands for the call: a built value or a `Foreign` one."""
        if not isinstance(function, Global):
            raise Unsafe("it calls the result of another call")
        if not isinstance(args, tuple):
            raise ValueError(f"its pickle calls {function.name} with {type(args).__name__}")
        if function.name in self.builders:
            return self.builders[function.name](args)
        if function.name == "builtins.getattr":  # how Python 3.11 writes a member of an Enum
            owner = args[0] if args else None
            if isinstance(owner, Global) and not is_refused(owner.name):
                return Foreign(owner.name, args)
        if is_refused(function.name):
            raise Unsafe(f"it calls {function.name}, which no checkpoint needs")
        return Foreign(function.name, args)

    def op_build(self, _) -> None:
        state, target = self.pop(), self.top()
        if isinstance(target, Foreign):
            target.state = state
        elif isinstance(target, Global):
            raise Unsafe(f"it changes {target.name} itself")
        # An ordered dictionary or a tensor may carry attributes (a state dict's _metadata); only
        # its contents are data.

    def op_binpersid(self, _) -> None:
        self.stack.append(self.persistent(self.pop()))


def _named(module: str, attribute: str) -> Global:
    return Global(f"{_PYTHON2.get(module, module)}.{attribute}")


def checked_key(key: Any) -> Any:
    """Return a dictionary key whose hash costs neither recursion nor crafted collisions."""
    scalar = str | bytes | bool | float | None | Global | Foreign
    parts = key if isinstance(key, tuple) and len(key) <= 16 else (key,)
    for part in parts:
        if isinstance(part, int) and abs(part) >= 2**60:
            raise ValueError("its pickle has an integer key beyond 60 bits")
        if not isinstance(part, scalar | int):
            raise ValueError(f"its pickle has a key of type {type(part).__name__}")
    return key


_CONSTANTS = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_SET": list,
    "EMPTY_TUPLE": tuple,
}
_PUSH = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE"),
    *("BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
