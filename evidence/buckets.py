# SPDX-License-Identifier: Apache-2.0
"""Runs whose work directory and data are in a bucket survive what happens to runs and buckets.

A small network is trained by two processes of four simulated devices on images in a bucket of
fake-gcs-server, and compared bit for bit with the same run on the local disk:

- kills: one process is killed with SIGKILL at random moments, and the run started again each time;
- faults: a share of all requests fails with 503;
- outage: the server is killed in the middle of the run, and comes back after some seconds;
- lease: a second run is refused while the first lives; after SIGKILL its lease is taken over;
- counts: requests and bytes of 750 steps with three checkpoints, and how long saves take.

Run: python -m evidence.buckets [PART ...] [--kills 5] [--steps 60] [--share 0.05] [--outage 20]
"""

import argparse
import contextlib
import dataclasses
import os
import random
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.results import write
from evidence import bucket_server
from evidence.kill_and_resume import wait_for
from evidence.runs import arrays, finish, start
from evidence.same_steps import free_port
from spectral_flax import buckets
from spectral_flax.files import any_path
from train.checkpoints.checkpoints import Checkpoints
from train.command.line import load
from train.run import loop

CONFIG = "tests/train/toy_config.py"
PARTS = ("kills", "faults", "outage", "lease", "counts")
ADDRESS = f"gs://{bucket_server.BUCKET}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", default=PARTS, choices=[*PARTS, []], metavar="PART")
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--share", type=float, default=0.05, help="of requests that fail")
    parser.add_argument("--outage", type=float, default=20, help="seconds without a server")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        place = Place(Path(folder), given)
        stack.callback(place.server.stop)
        os.environ.update(bucket_server.environment(place.proxy.port))
        buckets.send(place.data, any_path(f"{ADDRESS}/data"))
        results, good = {}, True
        for part in given.parts:
            results[part] = globals()[part](place)
            good &= results[part].pop("good")
            print(part, results[part], flush=True)
    write("buckets", results)
    return 0 if good else 1


class Place:
    """A server behind a proxy, images on the disk, and what a run on the disk ends in."""

    def __init__(self, folder: Path, given: argparse.Namespace):
        self.folder, self.given, self.rng = folder, given, random.Random(given.seed)
        self.proxy = bucket_server.Proxy(seed=given.seed)
        self.server = bucket_server.Server(folder / "buckets", public=self.proxy.port)
        self.proxy.target = self.server.port
        self.data = _images(folder / "data")
        self.found: dict[str, np.ndarray] | None = None

    def pair(self, workdir: str, data: str = f"{ADDRESS}/data") -> list:
        """Start the two processes of a run."""
        meet = ("--processes.coordinator", f"localhost:{free_port()}", "--processes.count", "2")
        words = ("--data.name", "image_list", "--data.path", data, "--data.size", "28", "28")
        words += ("--steps", str(self.given.steps), "--save-every", "10", "--log-every", "1")
        words += ("--eval-batch-size", "16")
        return [
            start(CONFIG, workdir, *words, *meet, "--processes.index", str(i), devices=4)
            for i in range(2)
        ]

    def reference(self) -> dict[str, np.ndarray]:
        """Return the arrays that the run ends in on the disk."""
        if self.found is None:
            workdir = self.folder / "reference"
            finish(*self.pair(str(workdir), str(self.data)))
            self.found = arrays(workdir)
        return self.found

    def same(self, name: str) -> bool:
        """Return whether a run in the bucket ended in the same bits."""
        copy, remote = self.folder / f"copy_{name}", any_path(f"{ADDRESS}/{name}")
        names = [n for n in buckets.listed(remote) if n.startswith("checkpoints/")]
        buckets.fetch_folder(remote, copy, names)
        a, b = self.reference(), arrays(copy)
        return a.keys() == b.keys() and all(a[n].tobytes() == b[n].tobytes() for n in a)


def kills(place: Place) -> dict:
    """Kill one process at random moments; start the run again, and compare its end."""
    workdir, moments, steps = f"{ADDRESS}/kills", [], place.given.steps
    place.reference()
    for i in range(place.given.kills):
        pair = place.pair(workdir)
        target = int(steps * (i + place.rng.random()) / place.given.kills)
        step = wait_for(pair[0], target)
        time.sleep(place.rng.uniform(0, 0.5))
        victim = place.rng.randrange(2)
        pair[victim].kill()
        time.sleep(1)
        pair[1 - victim].kill()  # as a scheduler does that misses one
        for process in pair:
            process.communicate()
        moments.append(f"process {victim} after step {step}")
        print(f"killed {moments[-1]}", flush=True)
    finish(*place.pair(workdir))
    same = place.same("kills")
    return {"killed": moments, "equal": same, "good": same}


def faults(place: Place) -> dict:
    """Fail a share of the requests of a whole run."""
    place.reference()
    place.proxy.counts.clear()
    place.proxy.share = place.given.share
    try:
        finish(*place.pair(f"{ADDRESS}/faults"))
    finally:
        place.proxy.share = 0
    counts, same = dict(place.proxy.counts), place.same("faults")
    return {"counts": counts, "equal": same, "good": same}


def outage(place: Place) -> dict:
    """Kill the server in the middle of a run, and start it again."""
    place.reference()
    pair = place.pair(f"{ADDRESS}/outage")
    step = wait_for(pair[0], place.given.steps // 2)
    place.server.stop()
    time.sleep(place.given.outage)
    place.server.start()
    outputs = [process.communicate()[0].decode() for process in pair]
    codes = [process.returncode for process in pair]
    if any(codes):  # it may stop: what was saved must be whole
        print(outputs[0][-2000:])
        finish(*place.pair(f"{ADDRESS}/outage"))
    same = place.same("outage")
    return {"after step": step, "exit codes": codes, "equal": same, "good": same}


def lease(place: Place) -> dict:
    """Start a second run beside a living one, and one after a kill; say how long each waits."""
    words = ("--steps", "100000", "--save-every", "50", "--log-every", "10")
    workdir = f"{ADDRESS}/lease"
    first = start(CONFIG, workdir, *words)
    wait_for(first, 1)
    began = time.monotonic()
    second = start(CONFIG, workdir, *words)
    told = second.communicate()[0].decode()
    refused = time.monotonic() - began
    good = second.returncode == 2 and "in use by process" in told and first.poll() is None
    first.kill()
    first.communicate()
    killed = time.monotonic()
    third = start(CONFIG, workdir, *words)
    taken = None
    for line in third.stdout:
        if b"took over the lease" in line:
            taken = time.monotonic() - killed
        if line.startswith(b"step"):
            break
    third.kill()
    third.communicate()
    return {
        "refused after seconds, start of Python included": round(refused, 1),
        "taken over after seconds": taken and round(taken, 1),
        "good": good and taken is not None,
    }


def counts(place: Place) -> dict:
    """Count requests of 750 steps with three checkpoints; time the saves, here and on the disk."""
    result = {"good": True}
    for name, workdir in (("disk", str(place.folder / "counts")), ("bucket", f"{ADDRESS}/counts")):
        place.proxy.counts.clear()
        with _timed("save") as saves, _timed("wait") as waits:
            config = load(CONFIG)
            loop.run(
                dataclasses.replace(
                    config, workdir=workdir, steps=750, save_every=250, log_every=10
                )
            )
        result[name] = {
            "requests": dict(place.proxy.counts),
            "seconds that a step waits for a save": saves,
            "seconds until the last is whole": waits[0],
        }
    return result


@contextlib.contextmanager
def _timed(method: str):
    """Collect the seconds that a method of `Checkpoints` takes."""
    seconds, original = [], getattr(Checkpoints, method)

    def timed(*arguments, **named):
        began = time.monotonic()
        try:
            return original(*arguments, **named)
        finally:
            seconds.append(round(time.monotonic() - began, 3))

    setattr(Checkpoints, method, timed)
    try:
        yield seconds
    finally:
        setattr(Checkpoints, method, original)


def _images(folder: Path) -> Path:
    """Write small images of noise, and the lists that name them."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 64), ("val", 16)):
        (folder / split).mkdir(parents=True)
        rows = ["path,label"]
        for i in range(count):
            pixels = rng.integers(0, 256, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(folder / split / f"{i}.png")
            rows.append(f"{split}/{i}.png,{i % 10}")
        (folder / f"{split}.csv").write_text("\n".join(rows))
    return folder


if __name__ == "__main__":
    sys.exit(main())
