# SPDX-License-Identifier: Apache-2.0
"""Guard against slow-downs: ratios of times within one run, compared with stored ones.

Each ratio is how many times faster the library's form is than the plain one beside it: convolutions
and kernel gradients against those of JAX, the transform that "auto" chose against the other, a
model with normalisations folded against itself, and an FFC network against the plain one. Each
form is alone in its process, and the processes take turns. Seconds are never compared. On a CPU
the ratios are those of CPU seconds, which other work moves little. Fails when a ratio falls below
the stored one by more than its slack; where none is stored for the platform, the ratios are shown
and nothing fails. `--store` writes those of this run.

Run: python -m benchmarks.check [--only NAME …] [--turns 2] [--store]
"""

import argparse
import functools
import json
import statistics
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import nnx

import spectral_flax as sf
from benchmarks import harness
from benchmarks.convolutions import array, compiled, forms
from benchmarks.turns import Contestant, Effort, Prepared, take_turns
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


def network(model, x, training):
    """Return the call of a network, or of its gradients."""
    mode = dict(use_running_average=not training, deterministic=not training)
    model = nnx.view(model, raise_if_not_found=False, **mode)
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)

    def forward(params, x):
        merged = nnx.merge(graphdef, params, rest, copy=True)
        y = merged(x)
        return jnp.square(y).mean(), nnx.state(merged, nnx.BatchStat)

    return compiled(jax.grad(forward, has_aux=True) if training else forward, params, x)


def folded():
    model = sf.create_model("resnet50", depths=(1, 1), width=32, rngs=nnx.Rngs(0))
    x = array((4, 96, 96, 3))
    return tuple(network(m, x, False) for m in (model, sf.fold_batch_norm(model)))


def global_step():
    """Return the training steps of a plain network and of one of FFCs."""
    options = dict(depths=(1, 1, 1), width=32, rngs=nnx.Rngs(0))
    plain = sf.create_model("resnet50", **options)
    ffc = sf.create_model("ffc_resnet50", ratio=0.25, lfu=True, **options)
    return tuple(network(m, array((4, 96, 96, 3)), True) for m in (plain, ffc))


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


def form(name: str, ours: bool) -> Prepared:
    """Prepare the library's form of a check, or the plain one."""
    call = CHECKS[name]()[ours]

    def run(calls):
        for _ in range(calls):
            call()

    return Prepared(run)


def measured(name: str, effort: Effort, kind: str) -> float:
    """Return the plain form's time over that of the library's form."""
    pair = {
        ours: Contestant(name, "benchmarks.check:form", {"name": name, "ours": ours})
        for ours in (False, True)
    }
    results = take_turns(pair, effort)
    for mine in results.values():
        if "failed" in mine[-1]:
            raise SystemExit(f"{name}: {mine[-1]['failed']}")
    plain, ours = (
        statistics.median(statistics.median(turn[kind]) for turn in mine)
        for mine in results.values()
    )
    return plain / ours


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=CHECKS, default=list(CHECKS))
    parser.add_argument("--turns", type=int, default=2, help="processes of each form")
    parser.add_argument("--store", action="store_true", help="store the ratios of this run")
    given = parser.parse_args()
    stored = json.loads(EXPECTED.read_text()) if EXPECTED.exists() else {}
    platform = jax.default_backend()
    expected = stored.get(platform, {}).get("ratios", {})
    kind = "cpu" if platform == "cpu" else "seconds"
    found, slow = {}, []
    print(f"{'':36}{'found':>7}{'stored':>8}  (ratios of {kind} times)")
    for name in given.only:
        found[name] = measured(name, Effort(given.turns), kind)
        wanted = expected.get(name)
        print(
            f"{name:36}{found[name]:7.2f}{'' if wanted is None else f'{wanted:8.2f}'}", flush=True
        )
        if wanted is not None and found[name] < wanted / SLACK:
            slow.append(name)
    about = harness.about()
    harness.save("check", {"about": about, "ratios": found})
    if given.store:
        rounded = expected | {name: round(value, 2) for name, value in found.items()}
        stored[platform] = {"about": about, "ratios": rounded}
        EXPECTED.write_text(json.dumps(stored, indent=1) + "\n")
    elif slow:
        raise SystemExit(f"slower than stored by more than {SLACK}: {', '.join(slow)}")


if __name__ == "__main__":
    main()
