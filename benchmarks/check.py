# SPDX-License-Identifier: Apache-2.0
"""Guard against slow-downs: ratios of times within one run, compared with stored ones.

Each ratio is how many times faster the library's form is than the plain one beside it: convolutions
and kernel gradients against those of JAX, the transform that "auto" chose against the other, a
model with normalisations folded against itself, and an FFC network against the plain one. Seconds
are never compared. On a CPU the ratios are those of CPU seconds, which other work moves little.
Fails when a ratio falls below the stored one by more than its slack; where none is stored for the
platform, the ratios are shown and nothing fails. `--store` writes those of this run.

Run: python -m benchmarks.check [--repeats 7] [--store]
"""

import argparse
import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import nnx

import spectral_flax as sf
from benchmarks import contestants, harness
from benchmarks.convolutions import array, compiled, forms
from spectral_flax.functional import fourier
from spectral_flax.kernels.convolution_forms import KERNEL, Y

EXPECTED = Path(__file__).parent / "expected.json"
SLACK = 1.35


def transform(side):
    """Return the calls of the implementation that "auto" did not choose, and of "auto"."""
    x = jnp.asarray(array((8, side, side, 32)))
    chosen = fourier.choose_implementation((side, side), jax.default_backend())
    other = "matmul" if chosen == "fft" else "fft"

    def there_and_back(x, implementation):
        s = fourier.rfft2(x, implementation=implementation)
        return fourier.irfft2(s, side, implementation=implementation)

    return tuple(
        compiled(functools.partial(there_and_back, implementation=i), x) for i in (other, "auto")
    )


def folded():
    model = sf.create_model("resnet50", depths=(1, 1), width=32, rngs=nnx.Rngs(0))
    x = array((4, 96, 96, 3))
    return tuple(contestants.ours(m, x, False)[0] for m in (model, sf.fold_batch_norm(model)))


def global_step():
    """Return the training steps of a plain network and of one of FFCs."""
    options = dict(depths=(1, 1, 1), width=32, rngs=nnx.Rngs(0))
    plain = sf.create_model("resnet50", **options)
    ffc = sf.create_model("ffc_resnet50", ratio=0.25, lfu=True, **options)
    return tuple(contestants.ours(m, array((4, 96, 96, 3)), True)[0] for m in (plain, ffc))


CHECKS = {
    "kernel gradient, 3x3": lambda: forms(KERNEL, (4, 28, 28, 128), (3, 3), 128),
    "kernel gradient, 1x1": lambda: forms(KERNEL, (4, 28, 28, 128), (1, 1), 512),
    "kernel gradient, 7x7 of an image": lambda: forms(KERNEL, (2, 112, 112, 3), (7, 7), 64),
    "kernel gradient, 3x3x3": lambda: forms(KERNEL, (2, 4, 14, 14, 64), (3, 3, 3), 64),
    "convolution, 3x3, unpadded": lambda: forms(Y, (1, 66, 66, 512), (3, 3), 128, padded=False),
    "convolution, 7x7, unpadded": lambda: forms(Y, (1, 262, 262, 64), (7, 7), 3, padded=False),
    "transform of 8 x 8": lambda: transform(8),
    "transform of 56 x 56": lambda: transform(56),
    "inference, normalisations folded": folded,
    "training step, plain / FFC": global_step,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="3 repeats")
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--store", action="store_true", help="store the ratios of this run")
    given = parser.parse_args()
    repeats = given.repeats or (3 if given.quick else 7)
    stored = json.loads(EXPECTED.read_text()) if EXPECTED.exists() else {}
    platform = jax.default_backend()
    expected = stored.get(platform, {}).get("ratios", {})
    kind = "cpu" if platform == "cpu" else "wall"
    found, slow = {}, []
    print(f"{'':36}{'found':>7}{'stored':>8}  (ratios of {kind} times)")
    for name, make in CHECKS.items():
        plain, ours = make()
        times = harness.take_turns({"plain": plain, "ours": ours}, repeats)
        found[name] = harness.ratio(times["plain"][kind], times["ours"][kind])["median"]
        wanted = expected.get(name)
        print(
            f"{name:36}{found[name]:7.2f}{'' if wanted is None else f'{wanted:8.2f}'}", flush=True
        )
        if wanted is not None and found[name] < wanted / SLACK:
            slow.append(name)
    about = harness.about()
    harness.save("check", {"about": about, "ratios": found})
    if given.store:
        rounded = {name: round(value, 2) for name, value in found.items()}
        stored[platform] = {"about": about, "ratios": rounded}
        EXPECTED.write_text(json.dumps(stored, indent=1) + "\n")
    elif slow:
        raise SystemExit(f"slower than stored by more than {SLACK}: {', '.join(slow)}")


if __name__ == "__main__":
    main()
