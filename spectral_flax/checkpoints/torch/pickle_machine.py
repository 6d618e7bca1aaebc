# SPDX-License-Identifier: Apache-2.0
"""A pickle machine: it reads pickles as data, and imports and calls nothing.

Python's own unpickler turns a file into calls of whatever functions the file names. This one knows
lists, dictionaries and scalars; a call in the file becomes a `Foreign` value that records what
would have been called, unless the reader supplies a builder for that very name. Names that no
honest checkpoint holds (``os.system``, ``builtins.eval``: see `pickle_names`) are refused outright,
called or not, so that a file made to attack is not mistaken for one with a missing entry.

A subclass of ``pickle.Unpickler`` whose ``find_class`` returns stand-ins would be shorter, but a
file can end the interpreter through it: deep nesting (200 000 tuples) overflows the C stack, which
no ``except`` catches; nor does it bound memory. Here every instruction takes a time and a memory
that do not depend on what came before, and a `Budget` counts them.
"""

import functools
import pickletools
import sys
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

from spectral_flax.checkpoints.budget import Budget
from spectral_flax.checkpoints.torch.pickle_names import full_name, is_refused
from spectral_flax.checkpoints.torch.pickle_values import Foreign, Global, safe_key
from spectral_flax.messages import message, shown

# A state dict takes about thirty opcodes a tensor.
MAX_OPCODES = 5_000_000

Builder = Callable[[tuple], Any]


class Unsafe(ValueError):
    """A pickle that names functions which have no place in a checkpoint."""


def read_pickle(
    file: BinaryIO,
    builders: Mapping[str, Builder],
    persistent: Callable[[Any], Any],
    budget: Budget,
    foreign: set[str],
) -> Any:
    """Return the value of the pickle at the file's position, leaving the file just after it.

    ``builders`` maps the full name of a callable to a function of its arguments, which are to
    take a time that does not depend on their size; ``persistent`` maps a persistent id to a value.
    ``foreign`` receives the names of classes that stay unbuilt. Raises `Unsafe` for a name that is
    refused and ValueError for anything that is not a well-formed pickle within its budget.
    """
    machine = _Machine(builders, persistent, budget, foreign)
    try:
        machine.run(file, min(MAX_OPCODES, budget.instructions))
    except (IndexError, KeyError, TypeError, OverflowError, AttributeError) as error:
        told = f"its pickle is damaged ({type(error).__name__}: {message(error, 200)})"
        raise ValueError(told) from error
    return machine.stack.pop()


class _Machine:
    """The pickle stack machine, without recursion: nesting in the file costs no stack here."""

    def __init__(self, builders, persistent, budget: Budget, foreign: set[str]):
        self.builders, self.persistent = builders, persistent
        self.budget, self.foreign = budget, foreign
        self.stack: list = []
        self.marks: list[int] = []
        self.memo: list = []  # as numbered by every pickler: 0, 1, 2, ...
        self.memo_by_name: dict[str, Any] = {}  # as texts: the hashes of numbers can be crafted
        self.names: dict[str, Global] = {}

        handlers = {name: self._push for name in _PUSH}
        handlers |= dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), self._remember)
        handlers |= dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), self._recall)
        handlers["FRAME"] = lambda _: None  # they only help buffering
        names = [opcode.name for opcode in pickletools.opcodes]
        own = {name: getattr(self, f"op_{name.lower()}", None) for name in names}
        handlers |= {name: handler for name, handler in own.items() if handler is not None}
        self.handlers = {name: (handler, _COSTS.get(name, 0)) for name, handler in handlers.items()}

    def run(self, file: BinaryIO, most: int) -> None:
        """Follow at most so many instructions, until the one that says stop."""
        stack, marks, spend, deepest = self.stack, self.marks, self.budget.spend, 0
        for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
            if count > most:
                raise ValueError(f"its pickle has more than {most} instructions")
            if opcode.name not in self.handlers:
                raise ValueError(f"its pickle uses {opcode.name}, which no checkpoint does")
            handler, cost = self.handlers[opcode.name]
            spend(cost)
            handler(argument)
            depth = len(stack) + 4 * len(marks)
            if depth > deepest:
                spend(_SLOT * (depth - deepest))
                deepest = depth

    def _push(self, argument: Any) -> None:
        self.budget.spend(sys.getsizeof(argument))
        self.stack.append(argument)

    def _remember(self, index: int | None) -> None:
        value = self.top()
        if index is None:
            index = len(self.memo) + len(self.memo_by_name)
        if index == len(self.memo):
            self.memo.append(value)
        elif 0 <= index < len(self.memo):
            self.memo[index] = value
        else:
            self.budget.spend(_ENTRY + 64)
            self.memo_by_name[str(index)] = value

    def _recall(self, index: int) -> None:
        known = 0 <= index < len(self.memo)
        self.stack.append(self.memo[index] if known else self.memo_by_name[str(index)])

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
        self.budget.spend(_SLOT * len(items))
        del self.stack[start:]
        return items

    def op_proto(self, version: int) -> None:
        if version > 5:
            raise ValueError(f"its pickle has protocol {version}; protocols to 5 are known")

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

    def _constant(self, value: Any, _) -> None:
        self.stack.append(value)

    op_none = functools.partialmethod(_constant, None)
    op_newtrue = functools.partialmethod(_constant, True)
    op_newfalse = functools.partialmethod(_constant, False)
    op_empty_tuple = functools.partialmethod(_constant, ())

    def op_empty_dict(self, _) -> None:
        self.stack.append({})

    def op_empty_list(self, _) -> None:
        self.stack.append([])

    op_empty_set = op_empty_list  # sets stay lists: their elements may not be hashable here

    def op_tuple(self, _) -> None:
        self.stack.append(tuple(self.pop_mark()))

    def _tuple(self, size: int, _) -> None:
        self._check_mark(size)
        items = tuple(self.stack[-size:])
        self.stack[-size:] = [items]

    op_tuple1 = functools.partialmethod(_tuple, 1)
    op_tuple2 = functools.partialmethod(_tuple, 2)
    op_tuple3 = functools.partialmethod(_tuple, 3)

    def op_list(self, _) -> None:
        self.stack.append(self.pop_mark())

    op_frozenset = op_list

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
            self.budget.spend(64 * len(items))
            target.items.extend(pairs)
        elif isinstance(target, dict):
            self._fill(target, pairs)
        else:
            raise ValueError(f"its pickle sets items of a {type(target).__name__}")

    def _fill(self, target: dict, pairs) -> dict:
        for key, value in pairs:
            self.budget.spend(_ENTRY if target else 4 * _ENTRY)
            target[safe_key(key)] = value
        return target

    # Names, calls and outside references.

    def op_global(self, argument: str) -> None:
        module, _, attribute = argument.partition(" ")
        self.stack.append(self._named(module, attribute))

    def op_stack_global(self, _) -> None:
        attribute, module = self.pop(), self.pop()
        if not isinstance(module, str) or not isinstance(attribute, str):
            raise ValueError("its pickle is damaged (a name is not a text)")
        self.stack.append(self._named(module, attribute))

    def _named(self, module: str, attribute: str) -> Global:
        name = full_name(module, attribute)
        if name not in self.names:
            if is_refused(name, called=False):
                raise Unsafe(f"it names {shown(name)}, which no checkpoint needs")
            self.budget.spend(2 * _ENTRY + sys.getsizeof(name))
            self.names[name] = Global(name)
        return self.names[name]

    def op_reduce(self, _) -> None:
        args = self.pop()
        self.stack.append(self.call(self.pop(), args))

    op_newobj = op_reduce

    def op_newobj_ex(self, _) -> None:
        named = self.pop()
        args = self.pop()
        self.stack.append(self.call(self.pop(), args, named))

    def op_obj(self, _) -> None:
        function, *args = self.pop_mark()
        self.stack.append(self.call(function, tuple(args)))

    def op_inst(self, argument: str) -> None:
        args = tuple(self.pop_mark())
        self.op_global(argument)
        self.stack.append(self.call(self.pop(), args))

    def call(self, function: Any, args: Any, named: Any = None) -> Any:
        """Return what stands for the call: a built value or a `Foreign` one."""
        if isinstance(function, Foreign) and function.name == "functools.partial":
            function = function.args[0]  # how a class with keywords is written in protocol 2
        if not isinstance(function, Global):
            raise Unsafe("it calls the result of another call")
        name = function.name
        if not isinstance(args, tuple):
            raise ValueError(f"its pickle calls {shown(name)} with {type(args).__name__}")
        if is_refused(name):
            raise Unsafe(f"it calls {shown(name)}, which no checkpoint needs")
        if name == "builtins.getattr":
            return self._attribute(args)
        if name == "copyreg._reconstructor" and args and isinstance(args[0], Global):
            name = args[0].name  # an object of this class
        if not named and name in _MAPPINGS:
            return self._mapping(name, args)
        if not named and name in self.builders:
            return self.builders[name](args)
        self.foreign.add(name)
        # The arguments may be shared by a million calls: they are kept, not copied.
        return Foreign(name, (args, named) if named else args)

    def _attribute(self, args: tuple) -> Any:
        """Return what stands for ``getattr``: a member of a class or a method of an object.

        So are written bound methods and, in older protocols, nested classes and class methods.
        """
        if len(args) not in (2, 3) or not isinstance(args[1], str):
            raise ValueError("its pickle is damaged (getattr without a name)")
        owner, attribute = args[:2]
        if isinstance(owner, Global):
            self.foreign.add(owner.name)
            return self._named(owner.name, attribute)
        kind = owner.name if isinstance(owner, Foreign) else type(owner).__name__
        name = self._named(kind, attribute).name
        self.foreign.add(name)
        return Foreign(name, args)

    def _mapping(self, name: str, args: tuple) -> dict:
        """Return the dictionary that a call of its class makes; its order is that of the file."""
        pairs = args[0] if args and name != "collections.defaultdict" else ()
        pairs = pairs.items() if isinstance(pairs, dict) else pairs
        return self._fill({}, pairs)

    def op_build(self, _) -> None:
        state, target = self.pop(), self.top()
        if isinstance(target, Foreign):
            target.state = state
        elif isinstance(target, Global):
            raise Unsafe(f"it changes {target.name} itself")
        # A dictionary or a tensor may carry attributes (_metadata); only its contents are data.

    def op_binpersid(self, _) -> None:
        self.stack.append(self.persistent(self.pop()))


_MAPPINGS = {"collections.OrderedDict", "collections.defaultdict", "builtins.dict"}
_PUSH = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE"),
    *("BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
# Bytes of memory that an instruction takes at most, beside its argument. An object that is dropped
# again counts as well. A place in a list takes nine bytes; an entry of a dictionary that has just
# grown, with its key where that is no text, takes sixteen times as many.
_SLOT, _ENTRY = 10, 160
_COSTS = {
    **{"TUPLE": 56, "TUPLE1": 64, "TUPLE2": 72, "TUPLE3": 80, "BINPERSID": 240, "MEMOIZE": _SLOT},
    **dict.fromkeys(("EMPTY_LIST", "EMPTY_SET", "LIST", "FROZENSET", "EMPTY_DICT", "DICT"), 80),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "APPEND"), _SLOT),
    **dict.fromkeys(("REDUCE", "NEWOBJ", "NEWOBJ_EX", "OBJ", "INST"), 160),
}
