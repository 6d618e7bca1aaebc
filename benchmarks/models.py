# SPDX-License-Identifier: Apache-2.0
"""Inference and training step of models: against their base, and against PyTorch.

ResNet-50 and FFC-ResNet-50 (ratio 0.25, with and without LFU), ours and the published form in
PyTorch, all taking turns in one run; for inference also with batch normalisations folded. Memory:
what XLA plans for temporaries and results of a step, and the growth of a fresh process over one
step of PyTorch.

Run: python -m benchmarks.models [--quick] [--size 224] [--batch 4] [--repeats 7] [--compiled]
     python -m benchmarks.models --no-torch   (ours only; needs no PyTorch)
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys

import numpy as np
from flax import nnx

import spectral_flax as sf
from benchmarks import contestants, harness

MODELS = {
    "resnet50": ("resnet50", {}),
    "ffc_resnet50": ("ffc_resnet50", dict(ratio=0.25, lfu=False)),
    "ffc_resnet50_lfu": ("ffc_resnet50", dict(ratio=0.25, lfu=True)),
}
VALIDATED = {"resnet50": "resnet50", "ffc_resnet50_lfu": "ffc_resnet50_lfu"}


def peer(name):
    from benchmarks.peers import fourier, resnet

    if name == "resnet50":
        return resnet.ResNet()
    return fourier.FFCResNet(ratio=0.25, lfu=name.endswith("lfu"))


def images(size, batch):
    return np.random.default_rng(0).standard_normal((batch, size, size, 3)).astype(np.float32)


def growth(name, size, batch):
    """Return by how many bytes PyTorch's first training step makes a fresh process grow."""
    command = [sys.executable, "-m", "benchmarks.models", "--growth", name]
    options = ["--size", str(size), "--batch", str(batch)]
    return json.loads(subprocess.run(command + options, check=True, capture_output=True).stdout)


def grow(name, size, batch):
    call = contestants.theirs(peer(name), images(size, batch), backward=True)
    with open("/proc/self/statm") as file:
        before = int(file.read().split()[1]) * resource.getpagesize()
    call()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before)


def measure(names, size, batch, repeats, backward, with_torch, compiled):
    calls, planned, x = {}, {}, images(size, batch)
    for name in names:
        kind, options = MODELS[name]
        model = sf.create_model(kind, rngs=nnx.Rngs(0), **options)
        calls[name], planned[name] = contestants.ours(model, x, backward)
        if not backward:
            folded = sf.fold_batch_norm(model)
            calls[f"{name} folded"], _ = contestants.ours(folded, x, backward)
        if with_torch:
            calls[f"{name} eager"] = contestants.theirs(peer(name), x, backward)
        if with_torch and compiled:
            calls[f"{name} compiled"] = contestants.theirs(peer(name), x, backward, True)
    times = harness.take_turns(calls, repeats, warmup=1)
    rows = []
    what = "training step" if backward else "inference"
    for name in names:
        against = [c for c in calls if c.startswith(f"{name} ")]
        against += ["resnet50"] if name != "resnet50" and "resnet50" in names else []
        for other in against:
            pair = (name, other) if other == "resnet50" else (other, name)
            rows.append(
                {
                    "label": f"{what}: {' / '.join(pair)}",
                    "seconds": [statistics.median(times[c]["wall"]) for c in pair],
                    "ratio": harness.ratio(*(times[c]["wall"] for c in pair)),
                    "cpu_ratio": harness.ratio(*(times[c]["cpu"] for c in pair)),
                }
            )
    for row in rows:
        low, high = row["ratio"]["quartiles"]
        print(
            f"{row['label']:62} {row['ratio']['median']:5.2f} [{low:.2f}, {high:.2f}]  cpu "
            f"{row['cpu_ratio']['median']:5.2f}   "
            f"{row['seconds'][0]:.3f} / {row['seconds'][1]:.3f} s",
            flush=True,
        )
    return rows, planned


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="batch 2, 128 x 128, 3 repeats")
    parser.add_argument("--size", type=int)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--compiled", action="store_true", help="also torch.compile")
    parser.add_argument("--no-torch", action="store_true")
    parser.add_argument("--only", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--growth", choices=MODELS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    size, batch = (
        given.size or (128 if given.quick else 224),
        given.batch or (2 if given.quick else 4),
    )
    if given.growth:
        return grow(given.growth, size, batch)
    repeats, versions = given.repeats or (3 if given.quick else 7), {}
    if not given.no_torch:
        import torch

        from benchmarks.peers.validate import validate

        versions["torch"] = torch.__version__
        for name in set(given.only) & set(VALIDATED):
            validate(VALIDATED[name])
    print(f"ratios of times within a turn [quartiles]; batch {batch}, {size} x {size}")
    rows, memory = [], {}
    for backward in (False, True):
        options = backward, not given.no_torch, given.compiled
        some, planned = measure(given.only, size, batch, repeats, *options)
        rows += some
    for name in given.only:
        memory[name] = {"ours_MiB": planned[name] / 2**20}
        if not given.no_torch:
            memory[name]["torch_MiB"] = growth(name, size, batch) / 2**20
        print(f"memory of a training step, {name}:", memory[name])
    about = harness.about(**versions)
    result = {"about": about, "batch": batch, "size": size, "rows": rows, "memory": memory}
    harness.save("models", result)
    harness.draw_ratios("models", f"batch {batch}, {size} x {size}", rows)


if __name__ == "__main__":
    main()
