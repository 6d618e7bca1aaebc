# SPDX-License-Identifier: Apache-2.0
"""Effective receptive fields of eight networks: what one position of a map sees of the image.

Plain convolutions see a spot around themselves; dilation in the place of a stride keeps it, on a
finer map; deformable ones see a larger one, and the blocks of the talk the whole image. Above,
ResNets-50 with random weights see a photograph: the centre of the map at the end of stage 3, where
the blocks stand. Statistics are those of the image, and gates are open: most blocks add nothing at
first, since a scale, gate or displacement starts at zero; the gate of the Fourier block is 14, the
side of the map, since its inverse transform divides by the number of positions. Below, the small
networks of `evidence.context` that learned to follow contours, of each that of three seeds which
does it best: the centre of their last map, mean over 32 images. The table also has the first as
they are initialised, and the second before training.

Run: pip install "spectral-flax[evidence]"
     python -m evidence.context     # for the trained networks
     python -m evidence.panel [-o docs/pictures/receptive_fields.png] [--size 224]
"""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx
from PIL import Image

import spectral_flax as sf
from benchmarks.results import write
from evidence.context.learning import load_weights, scaled
from evidence.context.networks import NETWORKS
from evidence.context.runs import RUNS, rows_of
from evidence.context.tasks import LENGTHS, contour
from spectral_flax.analysis.figures import Field, draw_receptive_fields
from spectral_flax.analysis.panels import save_figure
from spectral_flax.analysis.random_networks import open_gates, set_batch_statistics
from spectral_flax.analysis.receptive_field import half_energy_radius, receptive_field
from spectral_flax.inference.preparation import pixels_of, with_size

RANDOM: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("resnet50", {}),
    "dilated": ("resnet50", {"output_stride": 8}),
    "deformable": ("resnet50_dcn", {"deformable_at": {3: tuple(range(6))}}),
    "non-local": ("resnet50_nl", {}),
    "spectral (FFT)": ("resnet50_srl_fft", {"block_options": {"gate_init": 14.0}}),
    "orthogonal": ("resnet50_srl_lo", {}),
    "bilinear": ("resnet50_bat", {}),
    "FFC": ("ffc_resnet50", {}),
}
LAYER = "stage3"
INITIAL, OPEN = "random weights, as initialised", "random weights, all gates open"
SMALL = {
    "plain": "plain",
    "dilated": "dilated",
    "deformable": "deformable",
    "non-local": "nl",
    "spectral (FFT)": "srl_fft_gate",
    "orthogonal": "srl_lo",
    "bilinear": "bat",
    "FFC": "ffc",
}
UNTRAINED, TRAINED = "small networks, random", "small networks, trained to follow contours"
LARGEST = 300 * 1024  # bytes of the picture, for pages that show it
CELLS = 56  # of a field along each side in the picture; each is the mean of the pixels in it


def field_of(title: str, model: nnx.Module, images: np.ndarray, layer: str | None = None) -> Field:
    """Compute a field, averaged over images; print its radius."""
    began = time.perf_counter()
    field = receptive_field(model, images, layer=layer)
    seconds = time.perf_counter() - began
    print(f"{title:16} {half_energy_radius(field):6.1f} px  {seconds:4.0f} s", flush=True)
    return Field(title, field)


def random_fields(images: np.ndarray) -> dict[str, list[Field]]:
    """Return the fields of the eight random networks, as initialised and with all gates open."""
    rows: dict[str, list[Field]] = {INITIAL: [], OPEN: []}
    for title, (name, options) in RANDOM.items():
        model = sf.create_model(name, **options, input_size=images.shape[1:3])
        set_batch_statistics(model, images)
        rows[INITIAL].append(field_of(title, model, images, LAYER))
        opened = open_gates(model)
        if opened:
            set_batch_statistics(model, images)
        rows[OPEN].append(field_of(title, model, images, LAYER) if opened else rows[INITIAL][-1])
    return rows


def small_fields(images: np.ndarray, runs: Path) -> dict[str, list[Field]]:
    """Return the fields of eight small networks before and after they learned contours."""
    rows: dict[str, list[Field]] = {UNTRAINED: [], TRAINED: []}
    for title, name in SMALL.items():
        learned = [row for row in rows_of(runs / f"{name}.jsonl") if row["task"] == "contour"]
        if not learned:
            sys.exit(f"{runs} has no {name} that learned contours: run python -m evidence.context")
        seed = max(learned, key=lambda row: row["accuracy"])["seed"]
        model = NETWORKS[name].build(seed)
        open_gates(model)
        set_batch_statistics(model, images)
        rows[UNTRAINED].append(field_of(title, model, images))
        load_weights(model, runs / "weights" / f"{name}.contour.{seed}.npz")
        rows[TRAINED].append(field_of(title, model, images))
    return rows


def draw(
    rows: Mapping[str, Sequence[Field]], images: Mapping[str, np.ndarray], path: str | Path
) -> None:
    """Write the panel: a group of fields for each row; a large PNG in 256 colours."""
    title = "How much each pixel moves the centre of a map"
    placed = {}
    for name, fields in rows.items():
        near, far = [_coarse(f) for f in fields[:4]], [_coarse(f) for f in fields[4:]]
        placed[name] = [*near, None, *far]  # the image stands in front
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure = draw_receptive_fields(placed, title=title, image=images, columns=5)
    save_figure(figure, path, overwrite=True)
    if path.suffix == ".png" and path.stat().st_size > LARGEST:
        with Image.open(path) as drawn:
            drawn.convert("RGB").quantize(256).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size / 1024:.0f} KiB")


def _coarse(told: Field) -> Field:
    """Return a field in cells; its radius, which its title tells, is that of the pixels."""
    height, width = told.field.shape
    if height % CELLS or width % CELLS:
        return told
    blocks = told.field.reshape(CELLS, height // CELLS, CELLS, width // CELLS).mean((1, 3))
    return told._replace(field=blocks.repeat(height // CELLS, 0).repeat(width // CELLS, 1))


def photograph(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a photograph as ResNets take it, ``[1, size, size, 3]``, and its pixels."""
    from skimage import data

    about = with_size(sf.card("resnet50"), (size, size))
    inputs = sf.prepare([data.astronaut()], about)
    return inputs, pixels_of(inputs, about)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", default="docs/pictures/receptive_fields.png")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--runs", type=Path, default=RUNS, help="folder of evidence.context")
    given = parser.parse_args()
    inputs, pixels = photograph(given.size)
    rows = random_fields(inputs)
    contours, _ = contour("test", 32, np.random.default_rng(0), LENGTHS[-1:])
    rows |= small_fields(np.asarray(scaled(contours)), given.runs)
    radii = {n: {f.title: half_energy_radius(f.field) for f in fs} for n, fs in rows.items()}
    for title in RANDOM:
        print(f"{title:16}", *(f"{name}: {found[title]:.1f} px" for name, found in radii.items()))
    print(write("panel", dict(size=given.size, layer=LAYER, half_energy_radius=radii)))
    images = {OPEN: pixels, TRAINED: contours[:1].repeat(3, axis=-1)}
    draw({name: rows[name] for name in images}, images, given.output)


if __name__ == "__main__":
    main()
