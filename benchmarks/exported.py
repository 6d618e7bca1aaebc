# SPDX-License-Identifier: Apache-2.0
"""Exported models: error against JAX, size of the file, and time against JAX on this machine.

JAX and the file's runtime are each alone in their process, and the processes take turns.

Run, with the extra onnx: python -m benchmarks.exported [NAME[@HxW] ...] [--format FORMAT]
Models have random weights, gates that start at zero are open, and statistics are those of an image.
The error is the largest difference on random pixels, over the largest absolute value of the output.
"""

import argparse
import json
import pathlib
import tempfile

import jax
import numpy as np

import spectral_flax as sf
from benchmarks.harness import about, save
from benchmarks.turns import (
    BUSY,
    Contestant,
    Effort,
    Prepared,
    ratio,
    refuse_a_busy_machine,
    summary,
    take_turns,
)
from spectral_flax.analysis.random_networks import open_gates, set_batch_statistics
from spectral_flax.cli.options import parse_size
from spectral_flax.exporting.export import FORMATS
from spectral_flax.exporting.program import make_program
from spectral_flax.kernels.cpu import compiler_options, keep_freed_memory

CASES = (
    *("ffc_resnet50", "resnet50_nl", "resnet50_bat", "c2d_resnet50", "c2d_resnet50_nl"),
    *("pose_resnet50_srl_fft", "unet_star_srl_fft", "lama@256x256", "lama@251x333"),
)


def network(case: str):
    """Return the model of a case with random weights, the size of its images and its frames."""
    name, _, text = case.partition("@")
    time, size = sf.card(name).input_size[:-2], sf.card(name).input_size[-2:]
    size = parse_size(text) if text else size
    model = sf.create_model(name)
    open_gates(model)
    seen = (64, 64) if name.startswith("lama") else size
    shape = (1, *time, *seen, getattr(model, "in_features", 3))
    set_batch_statistics(model, np.random.default_rng(0).standard_normal(shape, np.float32))
    return model, size, time[0] if time else None


def in_jax(case: str) -> Prepared:
    """Prepare the network in JAX, compiled as the command line does."""
    keep_freed_memory()
    program = make_program(*network(case), "pixels")
    arrays = [jax.numpy.asarray(array) for array in program.random_inputs(1)]
    jitted = jax.jit(program.function, compiler_options=compiler_options())

    def run(calls):
        for _ in range(calls):
            result = jitted(*arrays)
        result.block_until_ready()

    return Prepared(run)


def in_runtime(path: str, format: str) -> Prepared:
    """Prepare a file that was exported, in the runtime of its format."""
    rng = np.random.default_rng(0)
    described = json.loads(pathlib.Path(f"{path}.json").read_text())["inputs"]
    arrays = [rng.integers(0, 256, one["shape"], one["dtype"]) for one in described]
    read = FORMATS[format].reader(pathlib.Path(path))

    def run(calls):
        for _ in range(calls):
            read(arrays)

    return Prepared(run)


def measure(case: str, format: str, turns: int) -> dict:
    """Export one model for a batch of one; return its error, megabytes and seconds."""
    model, size, _ = network(case)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, f"model.{format}")
        (file,) = sf.export(model, path, size=size, batch=1, tolerance=np.inf)
        megabytes = path.stat().st_size / 1e6
        given = {"path": str(path), "format": format}
        contestants = {
            "jax": Contestant("jax", "benchmarks.exported:in_jax", {"case": case}),
            format: Contestant(format, "benchmarks.exported:in_runtime", given),
        }
        results = take_turns(contestants, Effort(turns))
    for name, mine in results.items():
        if "failed" in mine[-1]:
            raise SystemExit(f"{case}, {name}: {mine[-1]['failed']}")
    found = {name: summary(mine) for name, mine in results.items()}
    share = ratio(results[format], results["jax"])
    return dict(case=case, error=file.error, megabytes=megabytes, sides=found, ratio=share)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", default=CASES, metavar="NAME[@HxW]")
    parser.add_argument("--format", choices=list(FORMATS), default="onnx")
    parser.add_argument("--turns", type=int, default=2, help="processes of each side")
    parser.add_argument("--busy", action="store_true", help="time on a busy machine, marked")
    args = parser.parse_args()
    load = refuse_a_busy_machine(args.busy)
    rows = []
    print(f"| model | error | MB | JAX, ms | {args.format}, ms | ratio |", flush=True)
    for case in args.cases:
        row = measure(case, args.format, args.turns)
        jax_ms, ms = (1e3 * row["sides"][name]["seconds"] for name in ("jax", args.format))
        told = f"{row['error']:.1e} | {row['megabytes']:.0f} | {jax_ms:.0f} | {ms:.0f}"
        against = "{ratio:.2f} ({least:.2f} to {most:.2f})".format(**row["ratio"])
        busy = ", busy" if max(side["others"] for side in row["sides"].values()) > BUSY else ""
        print(f"| {case} | {told} | {against}{busy} |", flush=True)
        rows.append(row)
    save(f"exported_{args.format}", {"about": about() | {"load": load}, "rows": rows})


if __name__ == "__main__":
    main()
