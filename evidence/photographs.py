# SPDX-License-Identifier: Apache-2.0
"""Holes in photographs: a Fourier generator, a plain one of equal cost, and OpenCV's inpainting.

Each generator is trained on the left half of a photograph, by ``python -m train
configs/photographs_lama.py``, and fills holes of three widths in the right half. The plain one has
no spectral transforms and the width that makes its multiply-adds equal. Each run is in a directory
of its own under --workdir; one that is done is not run again. Prints Markdown tables, mean +-
deviation over the seeds, and writes docs/pictures/inpainted_PHOTOGRAPH.jpg.

Run: pip install -e ".[train,images,evidence]"
     python -m evidence.photographs [--seeds 0 1 2] [--steps N]
"""

import argparse
import dataclasses
import json
import resource
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import spectral_flax as sf
from benchmarks.results import write
from configs.photographs_lama import config
from evidence import photograph_data
from evidence.dense_smoke import ROOT, Trial, train
from spectral_flax.analysis.profile import Cost, profile
from train.tasks.inpainting.masks import Boxes, Mixed, Strokes

GENERATORS = {"Fourier": {}, "plain": {"ratio": 0, "width": 10}}
CLASSICAL = {"Telea": "INPAINT_TELEA", "Navier-Stokes": "INPAINT_NS"}
TRIAL = Trial("photographs_lama", "psnr", {})
PICTURES = ROOT / "docs/pictures"
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
MARK = np.uint8((235, 50, 140))  # colour of holes in the picture
PICTURED = "medium"  # width of the holes in the picture
DRAWS = 16  # holes of each width in each photograph
RADIUS = 8  # pixels around the hole that OpenCV reads: better here than the usual 3
METRICS = ("psnr in", "ssim in", "l1 in", "psnr", "ssim", "l1")
SHOWN = METRICS[:3]


@dataclasses.dataclass(frozen=True)
class Case:
    """A half that is tested on, ``uint8 [H, W, 3]``, and a hole in it, ``bool [H, W]``."""

    photograph: str
    holes: str
    image: np.ndarray
    hole: np.ndarray


def cases(path: Path) -> list[Case]:
    """Return ``DRAWS`` holes of each width in the image at ``path``."""
    with Image.open(path) as file:
        image = np.asarray(file)
    return [
        Case(path.stem, name, image, masks(*image.shape[:2], np.random.default_rng([i, k])))
        for i, (name, masks) in enumerate(HOLES.items())
        for k in range(DRAWS)
    ]


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


def cost(changes: dict) -> Cost:
    """Return parameters and multiply-adds of a generator for one training crop."""
    model = sf.abstract_model(config.model, **(config.options | changes))
    return profile(model, (1, *config.data.size, 4)).total


def check_equal(costs: Iterable[Cost]) -> None:
    """Raise ValueError if multiply-adds differ by more than 5 % of the least."""
    counts = sorted(cost.multiply_adds for cost in costs)
    if counts[-1] > 1.05 * counts[0]:
        raise ValueError(f"generators need {counts} multiply-adds; expected 5 % apart at most")


def trained(changes: dict, seed: int, steps: int, folder: Path, workdir: Path) -> dict:
    """Train a generator, unless that is done; return its seconds, of the clock and of the CPU."""
    words = [word for k, v in changes.items() for word in (f"--options.{k}", str(v))]
    words += ["--data.path", str(folder), "--steps", str(steps)]
    kept = workdir / "seconds.json"
    if not kept.exists():
        before = _children()
        run = train(TRIAL, tuple(words), seed, workdir)
        kept.write_text(json.dumps({"clock": run["seconds"], "cpu": _children() - before}))
    return json.loads(kept.read_text())


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def filled_by(model, found: Sequence[Case]) -> list[np.ndarray]:
    """Fill the holes of all cases, as many at once as a photograph has of one width."""
    results = []
    for i in range(0, len(found), DRAWS):
        batch = found[i : i + DRAWS]
        images, holes = (
            np.stack(arrays) for arrays in zip(*((c.image, c.hole) for c in batch), strict=True)
        )
        results.extend(sf.inpaint(model, images, holes))
    return results


def table(rows: Iterable[dict], columns: Sequence[str]) -> str:
    """Return a Markdown table of means +- deviations by photograph, width of holes and method.

    Values are averaged over the cases of a seed, then over the seeds; one seed has no deviation.
    """
    lines = [f"| photograph | holes | method | {' | '.join(columns)} |"]
    lines += ["| --- | --- | --- |" + " ---: |" * len(columns)]
    grouped: dict[tuple[str, ...], dict[int | None, list[dict]]] = {}
    for row in rows:
        key = row["photograph"], row["holes"], row["method"]
        grouped.setdefault(key, {}).setdefault(row["seed"], []).append(row)
    for key, seeds in sorted(grouped.items(), key=lambda item: item[0][:2]):
        cells = []
        for column in columns:
            values = [np.mean([row[column] for row in some]) for some in seeds.values()]
            cells.append(_spread(values, 2 if "psnr" in column else 3))
        lines.append(f"| {' | '.join((*key, *cells))} |")
    return "\n".join(lines)


def _spread(values: Sequence[float], digits: int) -> str:
    text = f"{np.mean(values):.{digits}f}"
    return text if len(values) == 1 else f"{text} ± {np.std(values, ddof=1):.{digits}f}"


def picture(images: dict[str, np.ndarray], path: Path) -> None:
    """Write titled images of one size, ``uint8 [H, W, 3]``, in a row, as a JPEG of 300 KiB at most.

    Each is shown twice as large.
    """
    gap, head = 12, 56
    first = next(iter(images.values()))
    w, h = 2 * first.shape[1], 2 * first.shape[0]
    sheet = Image.new("RGB", (len(images) * (w + gap) - gap, head + h), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=44)
    for i, (title, image) in enumerate(images.items()):
        left = i * (w + gap)
        draw.text((left + w // 2, head // 2), title, "black", font, anchor="mm")
        shown = Image.fromarray(image).resize((w, h), Image.Resampling.BICUBIC)
        sheet.paste(shown, (left, head))
    path.parent.mkdir(parents=True, exist_ok=True)
    for quality in range(90, 40, -5):
        sheet.save(path, quality=quality, optimize=True)
        if path.stat().st_size <= 300 * 1024:
            return
    raise ValueError(f"{path} has {path.stat().st_size} bytes; expected 300 KiB at most")


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What came out for one photograph: figures, seconds of the runs, a row of the picture."""

    rows: list[dict]
    runs: list[dict]
    pictures: dict[str, np.ndarray]


def compare(photograph: str, seeds: Sequence[int], steps: int, workdir: Path) -> Comparison:
    """Train the generators on half of a photograph and fill holes in the other by all methods."""
    folder = workdir / photograph
    photograph_data.write(folder, photograph)
    found = cases(folder / "test" / f"{photograph}.png")
    filled = {
        (title, None): [classical(method, case) for case in found]
        for title, method in CLASSICAL.items()
    }
    runs = []
    for title, changes in GENERATORS.items():
        for seed in seeds:
            run = workdir / f"{photograph}_{title}_{steps}_{seed}"
            spent = trained(changes, seed, steps, folder, run)
            runs.append({"photograph": photograph, "method": title, "seed": seed} | spent)
            filled[title, seed] = filled_by(sf.load(run), found)
    rows = [
        {"method": method, "seed": seed, "photograph": photograph, "holes": case.holes}
        | figures(result, case)
        for (method, seed), results in filled.items()
        for result, case in zip(results, found, strict=True)
    ]
    first = next(i for i, case in enumerate(found) if case.holes == PICTURED)
    case = found[first]
    shown = {"Telea": None} | dict.fromkeys(GENERATORS, seeds[0])
    pictures = {"holes": np.where(case.hole[..., None], MARK, case.image)}
    pictures |= {method: filled[method, seed][first] for method, seed in shown.items()}
    return Comparison(rows, runs, pictures | {"original": case.image})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=config.steps)
    parser.add_argument("--workdir", type=Path, default=Path("runs/photographs"))
    given = parser.parse_args()
    costs = {title: cost(changes) for title, changes in GENERATORS.items()}
    check_equal(costs.values())
    print("| generator | parameters | multiply-adds |\n| --- | ---: | ---: |")
    for title, found in costs.items():
        sizes = found.parameters / 1e6, found.multiply_adds / 1e6
        print("| {} | {:.2f} M | {:.1f} M |".format(title, *sizes))
    compared = [
        compare(photograph, given.seeds, given.steps, given.workdir.resolve())
        for photograph in photograph_data.PHOTOGRAPHS
    ]
    rows = [row for comparison in compared for row in comparison.rows]
    runs = [run for comparison in compared for run in comparison.runs]
    print("\n" + table(rows, SHOWN))
    seconds = [run["cpu"] for run in runs]
    print(f"\n{np.mean(seconds):.0f} s of the processor for a run, of {given.steps} steps")
    write("photographs", {"steps": given.steps, "runs": runs, "rows": rows})
    for photograph, comparison in zip(photograph_data.PHOTOGRAPHS, compared, strict=True):
        picture(comparison.pictures, PICTURES / f"inpainted_{photograph}.jpg")


if __name__ == "__main__":
    main()
