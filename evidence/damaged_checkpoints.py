# SPDX-License-Identifier: Apache-2.0
"""Checkpoints damaged in one place are detected, and the run goes on from the one before.

A finished run is copied again and again; in each copy one file of the newest checkpoint, chosen at
random, gets a flipped byte, is truncated or is deleted.
The run is then restored as `train.run.loop` does. Damage is to be detected, so that the checkpoint
before is used. Only the files beside the groups of arrays hold nothing (Orbax's marks); where one
of them is deleted, everything must be bit for bit as saved: "harmless".

Run: python -m evidence.damaged_checkpoints [--damages 50] [--seed 0]
"""

import argparse
import contextlib
import io
import random
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

import jax
import numpy as np

from benchmarks.results import write
from evidence.runs import finish, start
from train.checkpoints.checkpoints import Checkpoints
from train.checkpoints.state import make_model, make_state, split, state_groups
from train.config import Config
from train.run.optimizers import make_optimizer
from train.tasks import make_task, open_data


def damage(file: Path, kind: str, rng: random.Random) -> None:
    content = bytearray(file.read_bytes())
    if kind == "flip":
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        file.write_bytes(content)
    elif kind == "truncate":
        file.write_bytes(content[: rng.randrange(len(content))])
    else:
        file.unlink()


def empty_state(config: Config):
    """Return a state of the right shapes, as a run has before it restores."""
    task = make_task(config, open_data(config, "train"))
    _, params, rest = split(make_model(config, task))
    return make_state(config, params, rest, make_optimizer(config.optimizer, lambda step: 0.1))


def restore(workdir: Path, like):
    """Restore as a run does, which verifies every array; return the record and the arrays."""
    checkpoints = Checkpoints(workdir / "checkpoints", keep=2)
    with contextlib.redirect_stderr(io.StringIO()):
        found = checkpoints.newest(lambda record: like)
        checkpoints.close()
    return found


def same(found, expected) -> bool:
    """Say whether all arrays are the same bits."""
    bits = lambda tree: [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]
    return bits(found) == bits(expected)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--damages", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rng = random.Random(given.seed)
    outcomes, failures = Counter(), []
    with tempfile.TemporaryDirectory() as directory:
        whole = Path(directory, "whole")
        finish(start("configs/mnist5k.py", whole, "--steps", "20", "--save-every", "10"))
        first = Checkpoints(whole / "checkpoints")
        config = first.record(20).config
        first.close()
        like = state_groups(empty_state(config))
        saved, arrays = restore(whole, like)
        for i in range(given.damages):
            copy = Path(directory, str(i))
            shutil.copytree(whole, copy)
            newest = copy / "checkpoints" / "20"
            files = sorted(p for p in newest.rglob("*") if p.is_file() and p.stat().st_size)
            file, kind = rng.choice(files), rng.choice(["flip", "truncate", "delete"])
            damage(file, kind, rng)
            try:
                with contextlib.redirect_stdout(io.StringIO()):
                    record, found = restore(copy, like)
            except Exception as error:
                outcome = f"FAILED: {type(error).__name__}"
            else:
                intact = record.position == saved.position and same(found, arrays)
                outcome = (
                    "detected, went on from the one before" if record.step == 10 else "harmless"
                )
                if record.step == 20 and not intact:
                    outcome = "UNDETECTED"
            outcomes[kind, outcome] += 1
            if outcome not in ("detected, went on from the one before", "harmless"):
                failures.append(f"{kind} {file.relative_to(newest)}: {outcome}")
            shutil.rmtree(copy)
    for (kind, outcome), count in sorted(outcomes.items()):
        print(f"{kind:10} {outcome:40} {count}")
    print("\n".join(failures) or f"{given.damages} of {given.damages} as they should be")
    rows = {f"{kind}: {outcome}": count for (kind, outcome), count in outcomes.items()}
    write("damaged_checkpoints", rows | {"failures": failures})
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
