# SPDX-License-Identifier: Apache-2.0
"""Plots of a run: curves of its metrics, training samples, confusion matrix."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spectral_flax.files import new_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from train.data import Example, Source

COLUMNS = 8  # tiles in a row of samples
ROWS = 6
TILE = 112  # pixels of a sample's longer side, at least


def draw_curves(
    path: Path, entries: Mapping[str, Sequence[Mapping[str, Any]]], names: Sequence[str]
) -> None:
    """Draw figures against the step, a line for each split, side by side."""
    names = list(dict.fromkeys(names))
    figure = _figure(4.5 * len(names), 3.5)
    for axes, name in zip(np.atleast_1d(figure.subplots(1, len(names))), names, strict=True):
        for split, found in entries.items():
            points = [(e["step"], e[name]) for e in found if name in e]
            if points:
                mark = "o-" if split == "test" else "-"
                axes.plot(*zip(*points, strict=True), mark, label=split, markersize=3)
                axes.legend()
        axes.set_xlabel("step")
        axes.set_title(name.replace("_", " "))
        axes.grid(alpha=0.3)
    _save(figure, path)


def draw_samples(path: Path, batch: "Example", source: "Source") -> None:
    """Draw the first images of a training batch as the network is shown them, before it scales.

    A clip is a row of frames, and so is an example of several views; images fill rows by eight.
    """
    images = np.asarray(batch["image"])
    frames = 1 if len(source.image_shape) == 3 else source.image_shape[0]
    views = math.prod(images.shape[1:-3]) // frames
    images = images.reshape(len(images), views, frames, *images.shape[-3:])
    names = class_names(source)
    labels = batch["label"] if np.ndim(batch.get("label")) == 1 else None
    tiles, titles = [], []
    for i in range(min(len(images), COLUMNS * ROWS)):
        label = "" if labels is None else names[int(labels[i])]
        if frames > 1:
            for v, view in enumerate(images[i, : ROWS // 2]):  # room for two examples
                chosen = np.linspace(0, frames - 1, min(frames, COLUMNS)).round().astype(int)
                tiles.append(view[chosen])
                titles.append([f"{label} · view {v + 1}" if views > 1 else label])
        elif views > 1:
            tiles.append(images[i, :COLUMNS, 0])
            titles.append([label])
        else:
            tiles.append(images[i, 0, 0])
            titles.append(label)
    if frames == views == 1:  # single images: eight make a row
        rows = range(0, len(tiles), COLUMNS)
        tiles = [np.stack(tiles[i : i + COLUMNS]) for i in rows]
        titles = [titles[i : i + COLUMNS] for i in rows]
    what = "clips" if frames > 1 else "views of images" if views > 1 else "images"
    size = "x".join(map(str, images.shape[2 if frames > 1 else 3 :]))
    _draw_rows(path, tiles[:ROWS], titles[:ROWS], f"{what} of the first batch, {size}")


def draw_confusion(path: Path, confusion: np.ndarray, names: Sequence[str]) -> None:
    """Draw which share of each true class (rows) was taken for which class (columns).

    More than a hundred classes are taken together, neighbours in groups.
    """
    from matplotlib.colors import PowerNorm

    classes, group = len(confusion), math.ceil(len(confusion) / 100)
    starts = range(0, classes, group)
    counts = np.add.reduceat(np.add.reduceat(confusion, starts, 0), starts, 1)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = 3 + 0.42 * min(classes, 20)
    figure = _figure(side + 1, side)
    axes = figure.add_subplot()
    # Mistakes are few among many classes: the root of their share can still be seen.
    colours = dict(cmap="Blues", norm=PowerNorm(0.5, 0, 1), interpolation="nearest")
    reach = len(counts) * group - 0.5
    image = axes.imshow(share, extent=(-0.5, reach, reach, -0.5), **colours)
    rows = "the true class" if group == 1 else f"{group} true classes"
    figure.colorbar(image, ax=axes, label=f"share of {rows}", shrink=0.8, ticks=[0, 0.05, 0.2, 1])
    if classes <= 40:
        short = [_shortened(name, 16) for name in names]
        upright = 90 if max(map(len, short)) > 2 else 0
        axes.set_xticks(range(classes), short, rotation=upright, fontsize=8)
        axes.set_yticks(range(classes), short, fontsize=8)
    if classes <= 20:
        for i, j in np.argwhere(counts > 0):
            ink = "white" if share[i, j] > 0.3 else "black"
            text = f"{counts[i, j]:.0f}"
            axes.text(j, i, text, ha="center", va="center", color=ink, fontsize=7)
    right = np.trace(confusion) / max(confusion.sum(), 1)
    axes.set_title(f"{right:.1%} of {confusion.sum():.0f} examples right", fontsize=10)
    axes.set_xlabel("taken for")
    axes.set_ylabel("true class")
    _save(figure, path)


def class_names(source: "Source") -> Sequence[str]:
    """Return the names of a source's classes: its own, or their numbers."""
    return source.class_names or [str(i) for i in range(source.num_classes)]


def _draw_rows(path: Path, rows: list[np.ndarray], titles: list[list[str]], title: str) -> None:
    """Draw rows of tiles ``[K, H, W, C]`` with a caption over each tile, or one over the row."""
    height, width = rows[0].shape[1:3]
    scale = max(1, round(TILE / max(height, width)))
    tile_h, tile_w = height * scale, width * scale
    gap, caption = 6, 18
    columns = max(len(row) for row in rows)
    canvas_w = max(columns * (tile_w + gap), 320)
    paper = 230  # not white, so that white images have borders
    canvas = np.full((len(rows) * (tile_h + caption + gap), canvas_w, 3), paper, np.uint8)
    figure = _figure(canvas.shape[1] / 100, canvas.shape[0] / 100 + 0.35)
    figure.set_facecolor((paper / 255,) * 3)
    axes = figure.add_subplot()
    for r, (row, captions) in enumerate(zip(rows, titles, strict=True)):
        top = r * (tile_h + caption + gap) + caption
        for k, tile in enumerate(row):
            left = k * (tile_w + gap)
            pixels = _colours(tile).repeat(scale, 0).repeat(scale, 1)
            canvas[top : top + tile_h, left : left + tile_w] = pixels
        room = tile_w if len(captions) == len(row) else canvas_w
        for k, text in enumerate(captions):
            place = k * (tile_w + gap), top - 4
            axes.text(*place, _shortened(text, room // 6), fontsize=7.5, va="baseline")
    axes.imshow(canvas)
    axes.set_axis_off()
    axes.set_title(title, fontsize=9, loc="left")
    _save(figure, path)


def _colours(image: np.ndarray) -> np.ndarray:
    """Return three channels to show: the only one thrice, or the first three."""
    image = np.clip(image, 0, 255).astype(np.uint8)
    return image[..., :3] if image.shape[-1] >= 3 else image[..., :1].repeat(3, -1)


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else text[: max(length - 1, 1)] + "…"


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure  # half a second, only needed here

    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: "Figure", path: Path) -> None:
    with new_file(path, overwrite=True) as draft:
        figure.savefig(draft, format="png", dpi=120)
