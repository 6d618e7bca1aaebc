# SPDX-License-Identifier: Apache-2.0
"""Holes in large pictures, filled in each mode of `sf.inpaint`: known pixels, borders, memory.

A narrow generator is trained as for ``evidence.photographs`` on the left half of a photograph of
bricks. Pictures are its right half, mirrored side by side, with holes of two widths far apart. Of
each mode: whether all known pixels are equal bit for bit; mean steps between neighbouring pixels
across the borders of holes and within holes, each over that of the picture without holes; peak
memory and seconds of a process of its own, compilation included. Writes a picture of each size to
docs/pictures/.

Run: pip install -e ".[train,images,evidence]"
     python -m evidence.large_pictures [--sizes 2048 4096] [--modes whole rows crops refine]
"""

import argparse
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.inpainting import peak_gib
from benchmarks.results import write
from configs.photographs_lama import config
from evidence import photograph_data
from evidence.photographs import HOLES, MARK, PICTURES, picture, trained

PHOTOGRAPH, DEVICES, SHOWN = "brick", 2, 160


def large(half: np.ndarray, size: int) -> np.ndarray:
    """Return a picture of ``size`` pixels a side, of a half and its mirror images."""
    both = np.concatenate([half, half[:, ::-1]], 1)
    both = np.concatenate([both, both[::-1]], 0)
    times = [-(-size // n) for n in both.shape[:2]]
    return np.tile(both, (*times, 1))[:size, :size]


def holes(size: int, seed: int = 0) -> np.ndarray:
    """Return a mask with thin and medium holes in blocks of 256 pixels, far apart."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((size, size), bool)
    for name, row, column in (("thin", 1, 1), ("medium", 1, 5), ("medium", 5, 1), ("thin", 6, 5)):
        top, left = (size // 8 * place for place in (row, column))
        mask[top : top + 256, left : left + 256] = HOLES[name](256, 256, rng)
    return mask


def steps(image: np.ndarray, hole: np.ndarray) -> tuple[float, float]:
    """Return the mean step between neighbours across borders of holes, and within holes."""
    across, within = [], []
    for axis in (0, 1):
        step = np.abs(np.diff(image.astype(float), axis=axis)).mean(-1)
        first, second = (np.take(hole, range(i, hole.shape[axis] - 1 + i), axis) for i in (0, 1))
        across.append(step[first != second])
        within.append(step[first & second])
    return float(np.concatenate(across).mean()), float(np.concatenate(within).mean())


def fill(run: Path, image: np.ndarray, hole: np.ndarray, mode: str) -> dict:
    """Fill holes in this process; return the result, what was planned, seconds and peak memory."""
    import spectral_flax as sf

    began, plan = time.perf_counter(), []
    filled = sf.inpaint(sf.load(run), image, hole, mode=mode, report=plan.append)
    seconds = time.perf_counter() - began
    return {"filled": filled, "plan": plan[0], "seconds": seconds, "peak_gib": peak_gib()}


def alone(mode: str, *arguments) -> dict:
    """Return what `fill` does, in a process of its own."""
    flags = f"--xla_force_host_platform_device_count={DEVICES if mode == 'rows' else 1}"
    os.environ["XLA_FLAGS"] = flags
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(fill, *arguments, mode).result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[2048, 4096])
    parser.add_argument("--modes", nargs="+", default=["whole", "rows", "crops", "refine"])
    parser.add_argument("--steps", type=int, default=config.steps)
    parser.add_argument("--workdir", type=Path, default=Path("runs/large_pictures"))
    given = parser.parse_args()
    folder = given.workdir.resolve() / PHOTOGRAPH
    photograph_data.write(folder, PHOTOGRAPH)
    run = folder.with_name(f"{PHOTOGRAPH}_{given.steps}")
    trained({}, 0, given.steps, folder, run)
    half = np.asarray(Image.open(folder / "test" / f"{PHOTOGRAPH}.png"))
    rows = []
    print("| side | mode | known pixels | steps at borders | within | GiB | s |")
    print("| --- | --- | --- | ---: | ---: | ---: | ---: |")
    for size in given.sizes:
        image, hole = large(half, size), holes(size)
        holed = np.where(hole[..., None], MARK, image)
        place = np.s_[size // 8 : size // 8 + SHOWN, size // 8 * 5 : size // 8 * 5 + SHOWN]
        shown = {"holes": holed[place]}
        for mode in given.modes:
            found = alone(mode, run, holed, hole)
            filled = found.pop("filled")
            equal = bool((filled == holed)[~hole].all())
            figures = np.divide(steps(filled, hole), steps(image, hole)).tolist()
            rows.append({"size": size, "mode": mode, "equal": equal, "steps": figures} | found)
            told = "equal" if equal else "**changed**"
            print(
                f"| {size} | {mode} | {told} | {figures[0]:.2f} | {figures[1]:.2f} "
                f"| {found['peak_gib']:.1f} | {found['seconds']:.0f} |",
                flush=True,
            )
            shown[mode] = filled[place]
        picture(shown | {"original": image[place]}, PICTURES / f"inpainted_{size}.jpg")
    write("large_pictures", {"steps": given.steps, "rows": rows})


if __name__ == "__main__":
    main()
