# SPDX-License-Identifier: Apache-2.0
"""Inference and training step of models: against their base, and against PyTorch.

ResNet-50, FFC-ResNet-50 (ratio 0.25, with and without LFU), ResNet-50 with bilinear and with
non-local attention, C2D with bilinear attention of videos (clips of 8 frames, a quarter of the
batch) and big LaMa (inference of one image and its mask, 512 x 512), ours and the published form
in PyTorch; models of one input shape take turns in one run. For inference also with batch
normalisations folded. In float32, or with --amp in bfloat16 (PyTorch by autocast). Memory: what
XLA plans for temporaries and results of a step, and the growth of a fresh process over one step
of PyTorch; of LaMa, of one inference.

Run: python -m benchmarks.models [--quick] [--size 224] [--batch 4] [--repeats 7] [--compiled]
         [--amp] [--only resnet50 lama_big]
     python -m benchmarks.models --no-torch   (ours only; needs no PyTorch)
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx

import spectral_flax as sf
from benchmarks import contestants, harness


class Model(NamedTuple):
    """A model, the case that validates its peer, and its input.

    The published form takes sides that are multiples of ``multiple`` only.
    """

    name: str
    options: dict
    case: str
    side: int = 224
    quick_side: int = 128
    multiple: int = 1
    frames: int | None = None
    channels: int = 3
    trained: bool = True

    def shape(self, given) -> tuple[int, ...]:
        """Return the input's shape for the arguments of the command."""
        side = given.size or (self.quick_side if given.quick else self.side)
        batch = given.batch or (2 if given.quick else 4)
        if not given.no_torch and side % self.multiple:
            raise SystemExit(
                f"{self.name}: the published form takes multiples of {self.multiple}; "
                f"--size {side} is none (--no-torch takes it)"
            )
        if not self.trained:
            batch = 1
        if self.frames is not None:
            return max(1, batch // 4), self.frames, side, side, self.channels
        return batch, side, side, self.channels


MODELS = {
    "resnet50": Model("resnet50", {}, "resnet50"),
    "ffc_resnet50": Model(
        "ffc_resnet50", dict(ratio=0.25, lfu=False), "ffc_resnet50_lfu", multiple=32
    ),
    "ffc_resnet50_lfu": Model(
        "ffc_resnet50", dict(ratio=0.25, lfu=True), "ffc_resnet50_lfu", multiple=32
    ),
    "resnet50_bat": Model("resnet50_bat", {}, "bat_resnet50", quick_side=112, multiple=112),
    "resnet50_nl": Model("resnet50_nl", {}, "nl_resnet50"),
    "c2d_resnet50_bat3d": Model(
        "c2d_resnet50_bat3d", {}, "c2d_resnet50_bat3d", quick_side=224, multiple=224, frames=8
    ),
    "lama_big": Model(
        "lama_big", {}, "lama_9_blocks", side=512, multiple=8, channels=4, trained=False
    ),
}


def peer(name):
    from benchmarks.peers import attention, fourier, inpainting, resnet, video

    return {
        "resnet50": resnet.ResNet,
        "ffc_resnet50": lambda: fourier.FFCResNet(ratio=0.25, lfu=False),
        "ffc_resnet50_lfu": lambda: fourier.FFCResNet(ratio=0.25, lfu=True),
        "resnet50_bat": lambda: resnet.ResNet(
            block=lambda features: attention.BilinearAttention(features, dropout=0.2)
        ),
        "resnet50_nl": lambda: resnet.ResNet(block=attention.NonLocal),
        "c2d_resnet50_bat3d": lambda: video.C2D(
            block=lambda features: video.BilinearAttention(features, k=8, tk=4, dropout=0.2)
        ),
        "lama_big": lambda: inpainting.Generator(blocks=18),
    }[name]()


def pixels(shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def growth(name):
    """Return by how many bytes PyTorch's first step makes a fresh process grow."""
    command = [sys.executable, "-m", "benchmarks.models", *sys.argv[1:], "--growth", name]
    # Memory that is freed goes back at once, lest it count as in use.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "131072"}
    return json.loads(
        subprocess.run(command, env=environment, check=True, capture_output=True).stdout
    )


def grow(name, shape, amp):
    import torch

    call = contestants.theirs(peer(name), pixels(shape), MODELS[name].trained, amp=amp)
    if torch.cuda.is_available():
        before = torch.cuda.memory_allocated()
        call()
        return print(torch.cuda.max_memory_allocated() - before)
    before = resident("VmRSS")
    # The largest size of a process is counted anew: so far it is that of building the model.
    Path("/proc/self/clear_refs").write_text("5")
    call()
    print(resident("VmHWM") - before)


def resident(field):
    """Return the bytes in memory that Linux reports for this process."""
    # Not ``ru_maxrss``: a new process inherits that of the one that started it.
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def measure(names, shape, repeats, backward, given):
    """Time the models of one input shape, taking turns."""
    calls, planned, x = {}, {}, pixels(shape)
    options = dict(amp=given.amp)
    for name in names:
        numerics = dict(dtype=jnp.bfloat16 if given.amp else None, rngs=nnx.Rngs(0))
        model = sf.create_model(MODELS[name].name, **MODELS[name].options, **numerics)
        calls[name], planned[name] = contestants.ours(model, x, backward, **options)
        if not backward:
            folded = sf.fold_batch_norm(model)
            calls[f"{name} folded"], _ = contestants.ours(folded, x, backward, **options)
        if not given.no_torch:
            calls[f"{name} eager"] = contestants.theirs(peer(name), x, backward, **options)
        if not given.no_torch and given.compiled:
            calls[f"{name} compiled"] = contestants.theirs(
                peer(name), x, backward, compiled=True, **options
            )
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
                    "shape": shape,
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
    parser.add_argument(
        "--quick", action="store_true", help="batch 2, the smallest usual sizes, 3 repeats"
    )
    parser.add_argument("--size", type=int, help="height and width of all inputs")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--compiled", action="store_true", help="also torch.compile")
    parser.add_argument("--amp", action="store_true", help="bfloat16, for GPUs")
    parser.add_argument("--no-torch", action="store_true")
    parser.add_argument("--only", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--growth", choices=MODELS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.growth:
        return grow(given.growth, MODELS[given.growth].shape(given), given.amp)
    shapes = {name: MODELS[name].shape(given) for name in given.only}
    repeats, versions = given.repeats or (3 if given.quick else 7), {}
    if not given.no_torch:
        import torch

        from benchmarks.peers.validate import validate

        versions["torch"] = torch.__version__
        for case in sorted({MODELS[name].case for name in given.only}):
            validate(case)
    print("ratios of times within a turn [quartiles]")
    rows, memory = [], {}
    for shape, backward in itertools.product(dict.fromkeys(shapes.values()), (False, True)):
        names = [name for name in given.only if shapes[name] == shape]
        names = [name for name in names if MODELS[name].trained or not backward]
        if not names:
            continue
        print(f"input {' x '.join(map(str, shape))}", flush=True)
        some, planned = measure(names, shape, repeats, backward, given)
        rows += some
        for name in names:
            memory[name] = {"shape": shape, "ours_MiB": planned[name] / 2**20}
    for name in given.only:
        if not given.no_torch:
            memory[name]["torch_MiB"] = growth(name) / 2**20
        what = "a training step" if MODELS[name].trained else "an inference"
        print(f"memory of {what}, {name}:", memory[name])
    about = harness.about(**versions)
    harness.save("models", {"about": about, "amp": given.amp, "rows": rows, "memory": memory})
    harness.draw_ratios("models", "ratios of times", rows)


if __name__ == "__main__":
    main()
