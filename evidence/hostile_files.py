# SPDX-License-Identifier: Apache-2.0
"""PyTorch files made to exhaust whoever reads them, of about the size asked for."""

import io
import struct
import zipfile
from collections.abc import Callable

MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}."
V2 = b"ctorch._utils\n_rebuild_tensor_v2\n"
V3 = b"ctorch._utils\n_rebuild_tensor_v3\n"


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)


def put(index: int) -> bytes:
    return b"r" + struct.pack("<I", index)


def get(index: int) -> bytes:
    return b"j" + struct.pack("<I", index)


def storage(key: str = "0", count: int = 6) -> bytes:
    return (
        b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(key) + text("cpu")
        + number(count) + b"tQ"
    )  # fmt: skip


def tensor(shape=(6,), strides=(1,), **options) -> bytes:
    sizes, steps = (b"(" + b"".join(map(number, given)) + b"t" for given in (shape, strides))
    return V2 + b"(" + storage(**options) + b"K\x00" + sizes + steps + b"\x89}tR"


def with_weights(value: bytes) -> bytes:
    """Return the pickle of a state dict with ``value`` beside it."""
    weights = b"}" + text("w") + tensor() + b"s"
    return b"\x80\x02}(" + text("state_dict") + weights + text("other") + value + b"u."


def archive(pickle: bytes, entries=(("a/data/0", bytes(24)),), compress: bool = False) -> bytes:
    buffer = io.BytesIO()
    method = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with zipfile.ZipFile(buffer, "w", method) as file:
        file.writestr("a/data.pkl", pickle)
        for name, content in entries:
            file.writestr(name, content)
    return buffer.getvalue()


def beside(value: bytes) -> bytes:
    return archive(with_weights(value))


def many(size: int, piece: bytes) -> bytes:
    return piece * (size // len(piece))


def doubled(count: int) -> bytes:
    """Return a list of two references to a list of two references to ..., ``count`` deep."""
    return b"]" + put(0) + b"".join(
        b"](" + get(i) * 2 + b"e" + put(i + 1) for i in range(count)
    )  # fmt: skip


def doubled_dtype(size: int) -> bytes:
    view = storage() + b"K\x00K\x06\x85K\x01\x85\x89}" + doubled(40)
    return archive(b"\x80\x02}" + text("w") + V3 + b"(" + view + text(" " * size) + b"tRs.")


def shared_arguments(size: int) -> bytes:
    half = size // 2
    items = b"(" + many(half, b"K\x01") + b"t" + put(0) + b"0"
    thing = b"clib\nThing\n" + put(1) + b"0}" + text("a") + b"K\x01s" + put(2) + b"0"
    return beside(b"(" + items + thing + many(half, get(1) + get(0) + get(2) + b"\x92") + b"l")


def shared_pairs(size: int) -> bytes:
    half = size // 2
    pairs = b"(" + many(half, text("a") + b"K\x01\x86") + b"l\x85" + put(0) + b"0"
    thing = b"ccollections\nOrderedDict\n" + put(1) + b"0"
    return beside(b"(" + pairs + thing + many(half, get(1) + get(0) + b"R") + b"l")


def shared_size(size: int) -> bytes:
    half = size // 2
    shape = b"(" + many(half, b"K\x01") + b"l\x85" + put(0) + b"0"
    return beside(b"(" + shape + many(half, b"ctorch\nSize\n" + get(0) + b"R") + b"l")


def shared_shape(size: int) -> bytes:
    half = size // 2
    shape = b"(" + many(half, b"K\x01") + b"t" + put(0) + b"0" + storage() + put(1) + b"0"
    view = V2 + b"(" + get(1) + b"K\x00" + get(0) * 2 + b"\x89}tR"
    return beside(b"(" + shape + many(half, view) + b"l")


def shared_persistent_id(size: int) -> bytes:
    half = size // 2
    pid = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K\x06"
    pid += many(half, b"N") + b"t" + put(0) + b"0"
    return beside(b"(" + pid + many(half, get(0) + b"Q") + b"l")


def long_names(size: int) -> bytes:
    name = text("n" * (size // 2)) + put(0) + b"0"
    return beside(b"(" + name + many(size // 2, get(0) * 2 + b"\x93") + b"l")


def equal_long_keys(size: int) -> bytes:
    key = text("n" * (size // 4))
    keys = key + put(0) + b"0" + key + put(1) + b"0"
    return beside(b"(" + keys + b"}" + many(size // 2, get(0) + b"Ns" + get(1) + b"Ns") + b"l")


def colliding_tuples(size: int) -> bytes:
    """Return pairs of numbers whose tuples have equal hashes, from the formula of Python 3.8 on."""
    one, two, mask = 11400714785074694791, 14029467366897019727, 2**64 - 1
    inverse, inverse_two = pow(one, -1, 2**64), pow(two, -1, 2**64)

    def turned(value: int, count: int) -> int:
        return (value << count | value >> (64 - count)) & mask

    keys, first = [], 0
    while len(keys) * 24 < size:
        first += 1
        before = turned(2870177450012600261 + first * two & mask, 31) * one & mask
        second = (turned(12345 * inverse & mask, 33) - before) * inverse_two & mask
        if second < 2**60:
            keys.append(number(first) + number(second) + b"\x86N")
    return beside(b"}(" + b"".join(keys) + b"u")


def colliding_memo(size: int) -> bytes:
    numbers = (index * (2**61 - 1) for index in range(1, size // 25))
    return beside(b"(" + b"".join(b"Np%d\n" % n for n in numbers) + b"l")


def containers(piece: bytes) -> Callable[[int], bytes]:
    return lambda size: beside(b"(" + many(size, piece) + b"l")


def nested(size: int) -> bytes:
    return beside(b")" + b"\x85" * size)


def wide_text(size: int) -> bytes:
    piece = text("\N{GRINNING FACE}" + "a" * (size // 8))
    return beside(b"(" + piece * 8 + b"l")


def long_numbers(size: int) -> bytes:
    return beside(b"\x8b" + struct.pack("<I", size) + b"\x7f" * size)


def long_decimals(size: int) -> bytes:
    return beside(b"(" + many(size, b"L" + b"9" * 4200 + b"L\n") + b"l")


def swelling_entries(size: int) -> bytes:
    """Return entries of a megabyte each, which take a kilobyte."""
    count = max(size // 1300, 1)
    tensors = b"".join(
        text(f"w{i}") + tensor((2**18,), key=str(i), count=2**18) for i in range(count)
    )
    entries = [(f"a/data/{i}", bytes(2**20)) for i in range(count)]
    return archive(b"\x80\x02}(" + tensors + b"u.", entries, compress=True)


def swelling_pickle(size: int) -> bytes:
    return archive(with_weights(b"(" + many(200 * size, b"]") + b"l"), compress=True)


def expanded(size: int) -> bytes:
    head = storage() + put(0) + b"0" + number(15_000_000) + b"\x85" + put(1) + b"0K\x00\x85"
    head += put(2) + b"0"
    view = V2 + b"(" + get(0) + b"K\x00" + get(1) + get(2) + b"\x89}tR"
    count = size // (len(view) + 14)
    views = b"".join(text(f"w{i}") + view for i in range(count))
    return archive(b"\x80\x02" + head + b"}(" + views + b"u.")


def overlapping(size: int) -> bytes:
    """Return views of one storage, each begun one element later."""
    length = size // 8
    whole = storage(count=length) + put(0) + b"0" + number(length // 2) + b"\x85" + put(1) + b"0"
    views = b"".join(
        text(f"w{i}") + V2 + b"(" + get(0) + number(i) + get(1) + b"K\x01\x85\x89}tR"
        for i in range(size // 2 // 90)
    )
    return archive(b"\x80\x02" + whole + b"}(" + views + b"u.", [("a/data/0", bytes(4 * length))])


def long_module_names(size: int) -> bytes:
    names = b"".join(text(f"{i}") + get(0) for i in range(size // 12))
    leaf = b"clib\nLeaf\n)R}" + text("_parameters") + b"}(" + names + b"usb"
    module = b"clib\nNet\n)R}" + text("_modules") + b"}" + text("m" * 990) + leaf + b"ssb"
    return archive(b"\x80\x02" + tensor() + put(0) + b"0" + module + b".")


def many_entries(size: int) -> bytes:
    entries = [(str(i), b"") for i in range(size // 90)]
    return archive(with_weights(b"N"), [("a/data/0", bytes(24)), *entries])


def numpy_arrays(size: int) -> bytes:
    data = text("a" * (size // 2)) + put(0) + b"0"
    dtype = b"cnumpy\ndtype\n" + text("u1") + b"\x85R" + put(1) + b"0"
    shape = number(size // 2) + b"\x85" + put(2) + b"0"
    make = b"cnumpy.core.numeric\n_frombuffer\n"
    one = make + b"(" + get(0) + get(1) + get(2) + text("C") + b"tR"
    arrays = b"".join(text(str(i)) + one for i in range(size // 2 // 90))
    return archive(b"\x80\x02" + data + dtype + shape + b"}(" + arrays + b"u.")


def legacy_keys(size: int) -> bytes:
    keys = text("k" * (size // 2)) + put(0) + b"0]("
    return MAGIC + with_weights(b"N") + b"\x80\x02" + keys + many(size // 2, get(0)) + b"e."


def legacy_lie(size: int) -> bytes:
    weights = b"\x80\x02}" + text("w") + tensor((2**40,), count=2**40) + b"s."
    return (
        MAGIC + weights + b"\x80\x02]" + text("0") + b"a." + struct.pack("<q", 2**40) + bytes(size)
    )


KINDS: dict[str, Callable[[int], bytes]] = {
    "dtype of a list doubled 40 times": doubled_dtype,
    "arguments shared by many calls": shared_arguments,
    "pairs shared by many dictionaries": shared_pairs,
    "sizes of one list": shared_size,
    "shapes of one tuple": shared_shape,
    "one endless persistent id": shared_persistent_id,
    "endless names of classes": long_names,
    "equal endless keys": equal_long_keys,
    "tuples of equal hashes": colliding_tuples,
    "memo numbers of equal hashes": colliding_memo,
    "empty lists": containers(b"]"),
    "empty dictionaries": containers(b"}"),
    "dictionaries of one entry": containers(b"}NNs"),
    "objects": containers(b"clib\nA\n)R"),
    "tuples of one": containers(b"N\x85"),
    "everything in the memo": containers(b"N\x94"),
    "marks": lambda size: beside(b"(" * size + b"l" * size),
    "nested tuples": nested,
    "texts of wide characters": wide_text,
    "a number of many digits": long_numbers,
    "decimals of many digits": long_decimals,
    "entries that swell": swelling_entries,
    "a pickle that swells": swelling_pickle,
    "expanded tensors": expanded,
    "overlapping views": overlapping,
    "a module with a long name": long_module_names,
    "many empty entries": many_entries,
    "NumPy arrays of one text": numpy_arrays,
    "old format: one endless key": legacy_keys,
    "old format: a length that lies": legacy_lie,
}
