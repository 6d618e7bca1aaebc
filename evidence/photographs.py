# SPDX-License-Identifier: Apache-2.0
"""Holes in photographs: a Fourier generator, a plain one of equal cost, and OpenCV's inpainting.

Both generators are trained by ``python -m train configs/photographs_lama.py`` on photographs that
Python packages carry, and fill holes of three widths in photographs that they have never seen. The
plain one has no spectral transforms and the width that makes its multiply-adds equal. Each run is
in a directory of its own under --workdir; one that is done is not run again. Prints Markdown
tables, mean +- deviation over the seeds, and writes docs/pictures/photographs.jpg.

Run: pip install -e ".[train,images,evidence]"
     python -m evidence.photographs [--seeds 0 1 2] [--steps N]
"""

import argparse
import dataclasses
import functools
import json
import resource
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

import spectral_flax as sf
from benchmarks.results import write
from configs.photographs_lama import config
from evidence import photograph_data
from evidence.dense_smoke import ROOT, Trial, train
from spectral_flax.analysis.profile import Cost, profile
from train.tasks.inpainting.masks import Boxes, Mixed, Strokes

TRIAL = Trial("photographs_lama", "psnr", ())
PICTURE = ROOT / "docs/pictures/photographs.jpg"
# Of LaMa's evaluation in images of 256 pixels, half as large: networks see crops of 64.
HOLES = {
    "thin": Mixed(
        strokes=Strokes(max_length=20, max_width=3, min_times=8, max_times=40), box_share=0.0
    ),
    "medium": Mixed(
        strokes=Strokes(max_length=50, max_width=20, min_times=4, max_times=10),
        boxes=Boxes(margin=0, min_size=10, max_size=25, min_times=4, max_times=10),
        box_share=0.25,
        max_area=0.5,
    ),
    "wide": Mixed(
        strokes=Strokes(max_length=100, max_width=40, min_times=2, max_times=4),
        boxes=Boxes(margin=0, min_size=25, max_size=60, min_times=2, max_times=5),
        box_share=0.25,
        max_area=0.5,
    ),
}
DRAWS = 8  # holes of each width in each photograph
RADIUS = 3  # of OpenCV: pixels around the hole that it reads
METRICS = ("psnr in", "ssim in", "l1 in", "psnr", "ssim", "l1")


@dataclasses.dataclass(frozen=True)
class Case:
    """A held-out photograph, ``uint8 [H, W, 3]``, and a hole in it, ``bool [H, W]``."""

    photograph: str
    holes: str
    image: np.ndarray
    hole: np.ndarray


def cases(folder: Path) -> list[Case]:
    """Return ``DRAWS`` holes of each width in each photograph of ``folder``."""
    found = []
    for i, path in enumerate(sorted(folder.glob("*.png"))):
        with Image.open(path) as file:
            image = np.asarray(file)
        for j, (name, masks) in enumerate(HOLES.items()):
            for k in range(DRAWS):
                hole = masks(*image.shape[:2], np.random.default_rng([i, j, k]))
                found.append(Case(path.stem, name, image, hole))
    return found


def classical(method: str, case: Case) -> np.ndarray:
    """Fill a hole by OpenCV's ``INPAINT_TELEA`` or ``INPAINT_NS``."""
    import cv2

    return cv2.inpaint(case.image, case.hole.astype(np.uint8), RADIUS, getattr(cv2, method))


def figures(filled: np.ndarray, case: Case) -> dict[str, float]:
    """Return ``METRICS`` of a filled image: inside the hole, and of the whole image.

    Structural similarity is of Wang et al., 2004, in Gaussian windows of deviation 1.5; inside the
    hole it is the mean over windows whose centre is missing.
    """
    from skimage.metrics import structural_similarity

    a, b = (np.float64(pixels) / 255 for pixels in (filled, case.image))
    windows = dict(gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
    similarity = structural_similarity(a, b, channel_axis=-1, data_range=1, full=True, **windows)[1]
    return averages(a - b, similarity, case.hole)


def averages(error: np.ndarray, similarity: np.ndarray, hole: np.ndarray) -> dict[str, float]:
    """Return ``METRICS`` from maps of error and similarity, ``[H, W, 3]``."""
    found = {}
    for suffix, where in ((" in", hole), ("", np.ones_like(hole))):
        squared = max(np.square(error[where]).mean(), 1e-10)
        found["psnr" + suffix] = float(-10 * np.log10(squared))
        found["ssim" + suffix] = float(similarity[where].mean())
        found["l1" + suffix] = float(np.abs(error[where]).mean())
    return found


def cost(options: dict) -> Cost:
    """Return parameters and multiply-adds of a generator for one training crop."""
    return profile(sf.abstract_model(config.model, **options), (1, *config.data.size, 4)).total


def equal_plain(options: dict) -> dict:
    """Return the options of the plain generator whose multiply-adds are nearest to another's.

    Raises:
      ValueError: they differ by more than 5 %.
    """
    wanted = cost(options).multiply_adds
    widths = range(max(options["width"] // 2, 1), options["width"] + 1)
    found = [options | {"ratio": 0, "width": width} for width in widths]
    off, best = min(
        ((abs(cost(o).multiply_adds / wanted - 1), o) for o in found), key=lambda pair: pair[0]
    )
    if off > 0.05:
        raise ValueError(f"{best} costs {off:.0%} more or less than {options}; expected 5 % at most")
    return best


def trained(options: dict, seed: int, steps: int, folder: Path, workdir: Path) -> dict:
    """Train a generator, unless that is done; return its seconds, of the clock and of the CPU."""
    changes = [word for k, v in options.items() for word in (f"--options.{k}", str(v))]
    changes += ["--data.path", str(folder), "--steps", str(steps)]
    kept = workdir / "seconds.json"
    if not kept.exists():
        before = _children()
        run = train(TRIAL, tuple(changes), seed, workdir)
        kept.write_text(json.dumps({"clock": run["seconds"], "cpu": _children() - before}))
    return json.loads(kept.read_text())


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
