# SPDX-License-Identifier: Apache-2.0
"""Damage PyTorch files at random and read them: nothing runs, nothing hangs, nothing half-loads.

Each mutation must give a ValueError that names the file, or the very tensors of the intact file.
The older serialisation has no checksums, so there a number or a name changed in place can not be
noticed by a reader; these are counted apart. (Loading into a model refuses other names.)

Run: python -m evidence.mutate_checkpoint [FILE ...] [--count 200] [--seed 0]
"""

import argparse
import codecs
import collections
import io
import json
import pathlib
import random
import sys
import tempfile
import time
import zipfile

import numpy as np

from spectral_flax.checkpoints.torch.reader import read_torch

FILES = pathlib.Path(__file__).parent.parent / "tests" / "checkpoints" / "torch_files"
# What Python announces before it runs code that a file asks for.
EXECUTION = ("exec", "compile", "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn")
EXECUTION += ("subprocess.Popen", "pickle.find_class", "ctypes.dlopen", "socket.connect")


def flip_bytes(data: bytes, rng: random.Random) -> bytes:
    """Change one to four bytes."""
    result = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        result[rng.randrange(len(result))] ^= rng.randint(1, 255)
    return bytes(result)


def truncate(data: bytes, rng: random.Random) -> bytes:
    """Cut the end off."""
    return data[: rng.randrange(len(data))]


def splice(data: bytes, rng: random.Random) -> bytes:
    """Overwrite, insert or delete a stretch of bytes, taken from elsewhere in the file."""
    length = rng.randint(1, min(64, len(data)))
    source, target = (rng.randrange(len(data) - length + 1) for _ in range(2))
    piece = data[source : source + length]
    kind = rng.choice(("overwrite", "insert", "delete"))
    if kind == "insert":
        return data[:target] + piece + data[target:]
    return data[:target] + (piece if kind == "overwrite" else b"") + data[target + length :]


def splice_records(data: bytes, rng: random.Random) -> bytes:
    """Drop, double or replace one entry of a zip archive, checksums and all."""
    if not zipfile.is_zipfile(io.BytesIO(data)):
        return splice(data, rng)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = [(info.filename, archive.read(info)) for info in archive.infolist()]
    index = rng.randrange(len(entries))
    name, content = entries[index]
    others = [bytes_ for _, bytes_ in entries if len(bytes_) != len(content)]
    kind = rng.choice(("drop", "double", "replace"))
    if kind == "drop":
        del entries[index]
    elif kind == "double":
        entries.append((f"{name}_", content))
    else:
        entries[index] = name, rng.choice(others)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return buffer.getvalue()


MUTATIONS = (flip_bytes, truncate, splice, splice_records)


def outcome(path: pathlib.Path, expected: dict[str, np.ndarray]) -> str:
    """Read the file; say whether it was refused, identical, has other numbers or other names."""
    try:
        tensors = read_torch(path).tensors
    except ValueError as error:
        return "refused" if str(path) in str(error) else f"nameless error: {error}"
    alike = {k: (v.shape, v.dtype) for k, v in tensors.items()}
    if alike != {k: (v.shape, v.dtype) for k, v in expected.items()}:
        return "other names"
    same = all(v.tobytes() == expected[k].tobytes() for k, v in tensors.items())
    return "identical" if same else "other numbers"


def mutate(path: pathlib.Path, count: int, seed: int = 0) -> dict:
    """Read ``count`` mutations of a file; return the outcomes, the slowest, what was executed."""
    data, rng = path.read_bytes(), random.Random(seed)
    expected = {} if "malicious" in path.name else read_torch(path).tensors
    executed: list[str] = []
    watching = [False]

    def watch(event: str, arguments: tuple) -> None:
        if watching[0] and event in EXECUTION:
            executed.append(f"{event}{arguments}")

    for codec in ("cp437", "ascii", "latin-1", "raw-unicode-escape"):
        codecs.lookup(codec)  # Python imports the codecs of old archives and pickles when needed
    sys.addaudithook(watch)
    outcomes: collections.Counter = collections.Counter()
    slowest = 0.0
    with tempfile.TemporaryDirectory() as folder:
        mutant = pathlib.Path(folder) / f"mutant{path.suffix}"
        for index in range(count):
            mutant.write_bytes(MUTATIONS[index % len(MUTATIONS)](data, rng))
            start = time.perf_counter()
            watching[0] = True
            found = outcome(mutant, expected)
            watching[0] = False
            slowest = max(slowest, time.perf_counter() - start)
            outcomes[found] += 1
    return {
        "file": path.name,
        "outcomes": dict(outcomes),
        "executed": executed,
        "slowest_seconds": round(slowest, 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=pathlib.Path, metavar="FILE")
    parser.add_argument("--count", type=int, default=200, help="mutations of each file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=pathlib.Path, help="also write the results here")
    args = parser.parse_args()
    files = args.files or [FILES / name for name in ("zip.pth", "legacy.pth", "views.pth")]
    results = [mutate(path, args.count, args.seed) for path in files]
    for result in results:
        told = ", ".join(f"{count} {kind}" for kind, count in sorted(result["outcomes"].items()))
        for event in result["executed"]:
            print(f"executed: {event}")
        print(f"{result['file']:16} {told}; executed: {len(result['executed'])}; "
              f"slowest {1e3 * result['slowest_seconds']:.1f} ms")  # fmt: skip
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
