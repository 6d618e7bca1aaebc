# SPDX-License-Identifier: Apache-2.0
"""Exported models: error against JAX, size of the file, and time against JAX on this machine.

Run, with the extra onnx: python -m benchmarks.exported [NAME[@HxW] ...] [--format FORMAT]
Models have random weights, gates that start at zero are open, and statistics are those of an image.
The error is the largest difference on random pixels, over the largest absolute value of the output.
"""

import argparse
import pathlib
import tempfile

import jax
import numpy as np

import spectral_flax as sf
from benchmarks.harness import about, ratio, save, take_turns
from spectral_flax.analysis.random_networks import open_gates, set_batch_statistics
from spectral_flax.cli.options import parse_size
from spectral_flax.exporting.export import FORMATS
from spectral_flax.exporting.program import make_program

CASES = (
    *("ffc_resnet50", "resnet50_nl", "resnet50_bat", "c2d_resnet50", "c2d_resnet50_nl"),
    *("pose_resnet50_srl_fft", "unet_star_srl_fft", "lama@256x256", "lama@251x333"),
)


def measure(case: str, format: str, repeats: int) -> dict:
    """Export one model for a batch of one; return its error, megabytes and seconds."""
    name, _, text = case.partition("@")
    time, size = sf.card(name).input_size[:-2], sf.card(name).input_size[-2:]
    size = parse_size(text) if text else size
    model = sf.create_model(name)
    open_gates(model)
    seen = (64, 64) if name.startswith("lama") else size
    shape = (1, *time, *seen, getattr(model, "in_features", 3))
    set_batch_statistics(model, np.random.default_rng(0).standard_normal(shape, np.float32))
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, f"{name}.{format}")
        (file,) = sf.export(model, path, size=size, batch=1, tolerance=np.inf)
        megabytes = path.stat().st_size / 1e6
        run = FORMATS[format].reader(path)
        program = make_program(model, size, time[0] if time else None, "pixels")
        arrays, jitted = program.random_inputs(1), jax.jit(program.function)
        calls = {"jax": lambda: jitted(*arrays).block_until_ready(), format: lambda: run(arrays)}
        times = take_turns(calls, repeats)
    seconds = {name: float(np.median(t["wall"])) for name, t in times.items()}
    share = ratio(times[format]["wall"], times["jax"]["wall"])
    return dict(case=case, error=file.error, megabytes=megabytes, seconds=seconds, ratio=share)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", default=CASES, metavar="NAME[@HxW]")
    parser.add_argument("--format", choices=list(FORMATS), default="onnx")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    rows = []
    print(f"| model | error | MB | JAX, ms | {args.format}, ms | ratio |", flush=True)
    for case in args.cases:
        row = measure(case, args.format, args.repeats)
        jax_ms, ms = (1e3 * row["seconds"][name] for name in ("jax", args.format))
        told = f"{row['error']:.1e} | {row['megabytes']:.0f} | {jax_ms:.0f} | {ms:.0f}"
        print(f"| {case} | {told} | {row['ratio']['median']:.2f} |", flush=True)
        rows.append(row)
    save(f"exported_{args.format}", {"about": about(), "rows": rows})


if __name__ == "__main__":
    main()
