# SPDX-License-Identifier: Apache-2.0
"""Holes in large pictures, filled in each mode of `sf.inpaint`: known pixels, borders, memory.

A narrow generator is trained as for ``evidence.photographs`` on the left half of a photograph of
bricks. Pictures are its right half, mirrored side by side, with holes of two widths far apart, one
of which crosses the border of two devices. Of each mode: whether all known pixels are equal bit for
bit; mean steps between neighbouring pixels across the borders of holes and within holes, each over
that of the picture without holes; mean steps within holes across the lines of a grid over all steps
there; peak memory and seconds of a process of its own, compilation included. ``tiles``, which the
library does not have, fills each square of the grid for itself, to tell what that shows. Writes a
picture of each size to docs/pictures/.

Run: pip install -e ".[train,images,evidence]"
     python -m evidence.large_pictures [--sizes 2048 4096] [--modes whole rows crops refine tiles]
"""

import argparse
import multiprocessing
import os
import time
from collections.abc import Iterator
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
MODES = ("whole", "rows", "crops", "refine", "tiles")
SHIFT = 37  # pixels, so that no line of the grid is one that the picture is mirrored at
GRID = 128  # pixels; it divides the rows of a device


def large(half: np.ndarray, size: int) -> np.ndarray:
    """Return a picture of ``size`` pixels a side, of a half and its mirror images."""
    both = np.concatenate([half, half[:, ::-1]], 1)
    both = np.concatenate([both, both[::-1]], 0)
    times = [-(-size // n) for n in both.shape[:2]]
    return np.tile(both, (*times, 1))[:size, :size]


def holes(size: int, seed: int = 0) -> np.ndarray:
    """Return a mask with thin and medium holes far apart: blocks of 256 pixels and of a quarter."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((size, size), bool)
    eighth = size // 8
    for name, top, left, side in (
        ("thin", eighth, eighth, 256),
        ("medium", eighth, 5 * eighth, 256),
        ("medium", size // 2 - GRID, eighth, 256),  # the first row of the second device amid
        ("medium", 5 * eighth, 5 * eighth, size // 4),
    ):
        mask[top : top + side, left : left + side] = HOLES[name](side, side, rng)
    return mask


def neighbours(image: np.ndarray, hole: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield, down and across, steps between neighbours and whether each lies in a hole."""
    for axis in (0, 1):
        step = np.abs(np.diff(image.astype(float), axis=axis)).mean(-1)
        first, second = (np.take(hole, range(i, hole.shape[axis] - 1 + i), axis) for i in (0, 1))
        yield step, first, second


def at_grid(image: np.ndarray, hole: np.ndarray) -> float:
    """Return the mean step within holes across lines of the grid, over that of all steps there."""
    within, crossing = [], []
    for axis, (step, first, second) in enumerate(neighbours(image, hole)):
        within.append(step[first & second])
        lines = (slice(None),) * axis + (slice(GRID - 1, None, GRID),)
        crossing.append(step[lines][(first & second)[lines]])
    return float(np.concatenate(crossing).mean() / np.concatenate(within).mean())


def by_tiles(model, image: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Return the image with each square of the grid filled in for itself."""
    import spectral_flax as sf

    filled = image.copy()
    for top, left in np.ndindex(*(n // GRID for n in hole.shape)):
        place = np.s_[top * GRID : (top + 1) * GRID, left * GRID : (left + 1) * GRID]
        if hole[place].any():
            filled[place] = sf.inpaint(model, image[place], hole[place], mode="whole")
    return filled


def steps(image: np.ndarray, hole: np.ndarray) -> tuple[float, float]:
    """Return the mean step between neighbours across borders of holes, and within holes."""
    across, within = [], []
    for step, first, second in neighbours(image, hole):
        across.append(step[first != second])
        within.append(step[first & second])
    return float(np.concatenate(across).mean()), float(np.concatenate(within).mean())


def fill(run: Path, image: np.ndarray, hole: np.ndarray, mode: str) -> dict:
    """Fill holes in this process; return the result, what was planned, seconds and peak memory."""
    import spectral_flax as sf

    began, told, model = time.perf_counter(), [], sf.load(run)
    if mode == "tiles":
        filled = by_tiles(model, image, hole)
    else:
        filled = sf.inpaint(model, image, hole, mode=mode, report=told.append)
    seconds, plan = time.perf_counter() - began, next(iter(told), mode)
    return {"filled": filled, "plan": plan, "seconds": seconds, "peak_gib": peak_gib()}


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
    parser.add_argument("--modes", nargs="+", default=MODES)
    parser.add_argument("--steps", type=int, default=config.steps)
    parser.add_argument("--workdir", type=Path, default=Path("runs/large_pictures"))
    given = parser.parse_args()
    folder = given.workdir.resolve() / PHOTOGRAPH
    photograph_data.write(folder, PHOTOGRAPH)
    run = folder.with_name(f"{PHOTOGRAPH}_{given.steps}")
    trained({}, 0, given.steps, folder, run)
    half = np.asarray(Image.open(folder / "test" / f"{PHOTOGRAPH}.png"))
    rows = []
    print("| side | mode | known pixels | steps at borders | within | at the grid | GiB | s |")
    print("| --- | --- | --- | ---: | ---: | ---: | ---: | ---: |")
    for size in given.sizes:
        image, hole = large(half, size + SHIFT)[SHIFT:, SHIFT:], holes(size)
        holed = np.where(hole[..., None], MARK, image)
        place = np.s_[size // 8 : size // 8 + SHOWN, size // 8 * 5 : size // 8 * 5 + SHOWN]
        shown = {"holes": holed[place]}
        for mode in given.modes:
            found = alone(mode, run, holed, hole)
            filled = found.pop("filled")
            equal = bool((filled == holed)[~hole].all())
            figures = np.divide(steps(filled, hole), steps(image, hole)).tolist()
            figures.append(at_grid(filled, hole))
            rows.append({"size": size, "mode": mode, "equal": equal, "steps": figures} | found)
            told = "equal" if equal else "**changed**"
            print(
                f"| {size} | {mode} | {told} | {' | '.join(f'{f:.2f}' for f in figures)} "
                f"| {found['peak_gib']:.1f} | {found['seconds']:.0f} |",
                flush=True,
            )
            shown[mode] = filled[place]
        print(f"At the grid, without holes: {at_grid(image, hole):.2f}")
        picture(shown | {"original": image[place]}, PICTURES / f"inpainted_{size}.jpg")
    write("large_pictures", {"steps": given.steps, "rows": rows})


if __name__ == "__main__":
    main()
