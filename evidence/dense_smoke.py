# SPDX-License-Identifier: Apache-2.0
"""What context brings: the small dense tasks with and without their spectral layers, over seeds.

Run: python -m evidence.dense_smoke [--tasks pose …] [--seeds 0 1 2] [--out FILE.json]
Each run is one ``python -m train`` in a directory of its own under --workdir; one that is done is
not run again. Mean and range over the seeds, of COCO's AP, mean IoU and PSNR.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


@dataclasses.dataclass(frozen=True)
class Trial:
    """A config, the figure that counts, and what each network changes of the config."""

    config: str
    figure: str
    networks: dict[str, tuple[str, ...]]


PLAIN = ("--options.blocks-at", "None", "--options.block-options", "None")


def _block(name: str) -> tuple[str, ...]:
    return ("--model", f"pose_resnet18_{name}", "--options.block-options", "None")


TRIALS = {
    "pose": Trial(
        "stick_figures_pose",
        "AP",
        {
            "srl_fft": (),
            "plain": ("--model", "pose_resnet18", *PLAIN),
            "srl_fft as published": _block("srl_fft"),
        }
        | {name: _block(name) for name in ("srl_lo", "bat", "nl", "a2", "cgnl", "rcca", "glore")},
    ),
    "segmentation": Trial(
        "ellipses_unet_star", "mean_iou", {"srl_fft": (), "plain": ("--model", "unet_star")}
    ),
    "inpainting": Trial("textures_lama", "psnr", {"ffc": (), "plain": ("--options.ratio", "0")}),
}


def train(trial: Trial, changes: tuple[str, ...], seed: int, workdir: Path) -> dict:
    """Return the figures of one run on its held-out examples."""
    metrics, done = workdir / "metrics.jsonl", workdir / "results.png"
    if not done.exists():
        command = [sys.executable, "-m", "train", f"configs/{trial.config}.py", *changes]
        command += ["--seed", str(seed), "--workdir", str(workdir)]
        cache = {"JAX_COMPILATION_CACHE_DIR": str(workdir.parent / "compiled")}  # shared by seeds
        subprocess.run(
            command, check=True, cwd=ROOT, env=os.environ | cache, stdout=subprocess.DEVNULL
        )
    entries = [json.loads(line) for line in metrics.read_text().splitlines()]
    seconds = max(entry.get("seconds", 0) for entry in entries)
    return [e for e in entries if e["split"] == "test"][-1] | {"seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", choices=TRIALS, default=list(TRIALS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--workdir", type=Path, default=Path("runs/dense_smoke"))
    parser.add_argument("--out", type=Path, help="JSON file of all figures")
    args = parser.parse_args()
    rows = []
    print(f"{'task':13} {'network':20} {'figure':9} {'mean':>7} {'least':>7} {'most':>7} {'s':>5}")
    for name in args.tasks:
        trial = TRIALS[name]
        for network, changes in trial.networks.items():
            runs = [
                train(
                    trial,
                    changes,
                    seed,
                    args.workdir.resolve() / f"{name}_{network.replace(' ', '_')}_{seed}",
                )
                for seed in args.seeds
            ]
            found = [run[trial.figure] for run in runs]
            rows += [
                {"task": name, "network": network, "seed": seed} | run
                for seed, run in zip(args.seeds, runs, strict=True)
            ]
            seconds = sum(run["seconds"] for run in runs) / len(runs)
            print(
                f"{name:13} {network:20} {trial.figure:9} {sum(found) / len(found):7.3f} "
                f"{min(found):7.3f} {max(found):7.3f} {seconds:5.0f}",
                flush=True,
            )
            if args.out:
                args.out.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
