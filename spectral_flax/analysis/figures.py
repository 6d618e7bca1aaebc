# SPDX-License-Identifier: Apache-2.0
"""Figures of what networks see, drawn by Matplotlib from the arrays of this package.

Each function returns a `matplotlib.figure.Figure`, which a notebook shows and
`panels.save_figure` writes. Images are uint8 or floats from 0 to 1, ``[N, H, W, 3]``, as the
network sees them before they are normalised; clips ``[N, T, H, W, 3]``. All colour maps are
perceptually uniform, and told apart by people who do not see some colours.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jax.typing import ArrayLike

from spectral_flax.analysis.attention import BlockMaps, scale_to_bytes
from spectral_flax.analysis.panels import Group, Panel, Scale, decades, grid, matplotlib
from spectral_flax.analysis.paths import Paths
from spectral_flax.analysis.receptive_field import half_energy_radius
from spectral_flax.analysis.spectra import Threshold

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DECADES = 5  # of energy that a receptive field shows
_OF_FFC = ".conv.global_to_global."  # part of every name of a Fourier unit


def draw_attention(
    images: ArrayLike,
    found: Mapping[str, BlockMaps],
    *,
    title: str = "",
    names: Sequence[str] = (),
) -> "Figure":
    """Draw maps over their images: a row for each image or frame, a column for each map.

    Re-projections (maps of no query) are scaled to 0 ... 255 each; the weights of a query are in
    multiples of the mean weight, with one scale for all. The query is a cross. Of a clip, whose
    frames the network may have halved, the middle one of each group is drawn.

    Args:
      images: what the network saw.
      found: what `attention_maps` returned for them.
      title: of the figure.
      names: of the images.

    Raises:
      ValueError: images and maps do not belong together.
    """
    frames = _pixels(images)
    of_query = any(maps.position is not None for maps in found.values())
    rows = []
    for example in range(len(frames)):
        name = names[example] if names else f"image {example + 1}" if len(frames) > 1 else "image"
        columns = [
            (
                block if len(maps.weights) == 1 else f"{block}\n{kind}",
                _weights(maps, kind, frames, example),
                maps,
            )
            for block, maps in found.items()
            for kind in maps.weights
        ]
        rows += _rows_of(name, frames[example], columns)
    for row in rows[1:]:  # the titles of columns stand above the first
        row[1:] = [panel._replace(title="") for panel in row[1:]]
    if of_query:
        norm = decades([panel.map for row in rows for panel in row[1:]])
        scale = Scale("weight, in multiples of the mean weight; + is the query", norm)
    else:
        norm = matplotlib().colors.Normalize(0, 255)
        scale = Scale("re-projected weight of the pixels, each map scaled to 0 … 255", norm)
    return grid([Group(rows, scale)], title)


def _weights(maps: BlockMaps, kind: str, frames: np.ndarray, example: int) -> np.ndarray:
    weights = maps.weights[kind]
    if weights.ndim != frames.ndim - 1 or len(weights) != len(frames):
        raise ValueError(
            f"images have shape {frames.shape} and maps {weights.shape}; expected [N, H, W, 3] "
            "with [N, h, w], or [N, T, H, W, 3] with [N, t, h, w]"
        )
    if maps.position is None:
        return scale_to_bytes(weights[example])
    return weights[example] / weights[example].mean()


def _rows_of(name: str, frames: np.ndarray, columns: list) -> list[list[Panel]]:
    """Return rows of panels: one of an image, one for each frame of the maps of a clip."""
    if frames.ndim == 3:
        frames, columns = frames[None], [(t, w[None], maps) for t, w, maps in columns]
    counts = {len(weights) for _, weights, _ in columns}
    if len(counts) != 1 or len(frames) % min(counts):
        told = " and ".join(map(str, sorted(counts)))
        raise ValueError(f"{len(frames)} frames are no multiple of the maps' {told}")
    (count,) = counts
    step = len(frames) // count
    rows = []
    for t, frame in enumerate(frames[step // 2 :: step]):
        label = name if count == 1 else f"frame {t * step + step // 2 + 1}"
        row = [Panel(label, frame)]
        for title, weights, maps in columns:
            mark = None
            if maps.position is not None and maps.position[:-2] in ((), (t,)):
                place = zip(maps.position[-2:], maps.size[-2:], strict=True)
                mark = tuple((p + 0.5) / n for p, n in place)
            row.append(Panel(title, weights[t], frame, mark))
        if row[1].mark is not None:
            row[0] = row[0]._replace(mark=row[1].mark)
        rows.append(row)
    return rows


class Field(NamedTuple):
    """An effective receptive field ``[H, W]`` and what is said of it."""

    title: str
    field: np.ndarray
    centre: tuple[float, float] | None = None
    """y, x in pixels that the radius is measured from; None: the middle."""


FIELD_LEGEND = (
    "energy of the gradient, in multiples of its mean over the image\n"
    "the circle, with its radius in pixels, holds half of it"
)
"""What the colours and the circle of `draw_receptive_fields` mean."""


def draw_receptive_fields(
    rows: Mapping[str, Sequence[Field | None]],
    *,
    title: str = "",
    image: ArrayLike | Mapping[str, ArrayLike] | None = None,
    columns: int = 5,
) -> "Figure":
    """Draw fields in groups by title, each with the circle that holds half of it.

    Colours are the energy of the gradient in multiples of its mean over the image, by decades: 1
    where every pixel counts as much. ``image`` is drawn in front of the first group, or one in
    front of each that is named.
    """
    images = image if isinstance(image, Mapping) else dict.fromkeys([*rows][:1], image)
    norm = matplotlib().colors.LogNorm(10.0 ** (2 - _DECADES), 100, clip=True)
    scale = Scale(FIELD_LEGEND, norm)
    groups = []
    for name, fields in rows.items():
        panels = [None if field is None else _field_panel(field) for field in fields]
        if images.get(name) is not None:
            circle = dict(mark=panels[0].mark, radius=panels[0].radius) if len(panels) == 1 else {}
            panels.insert(0, Panel("image\n", _pixels(images[name])[0], **circle))
        lines = [panels[i : i + columns] for i in range(0, len(panels), columns)]
        groups.append(Group(lines, scale, name))
    return grid(groups, title)


def _field_panel(told: Field) -> Panel:
    field = np.asarray(told.field, np.float64)
    field = field.sum(0) if field.ndim == 3 else field
    radius = half_energy_radius(field, told.centre)
    centre = told.centre or [(n - 1) / 2 for n in field.shape]
    mark = tuple((p + 0.5) / n for p, n in zip(centre, field.shape, strict=True))
    return Panel(f"{told.title}\n{radius:.0f} px", field / field.mean(), None, mark, radius)


def draw_paths(
    images: ArrayLike, energies: Mapping[str, Paths], *, title: str = "", example: int = 0
) -> "Figure":
    """Draw the energy of local channels (above) and global ones (below), a column for each map.

    Each map is in multiples of its mean over the positions; of a clip the middle frame is drawn.
    """
    image = _middle(_pixels(images)[example])
    rows = []
    for row, kind in enumerate(("local", "global")):
        panels = [Panel("image" if row == 0 else "", image)]
        for name, pair in energies.items():
            map_ = _middle(pair[row][example], 2)
            panels.append(Panel(f"{name}, {kind}", map_ / max(map_.mean(), 1e-30)))
        rows.append(panels)
    norm = decades([panel.map for row in rows for panel in row[1:]])
    scale = Scale("mean square of the channels, in multiples of the map's mean", norm)
    return grid([Group(rows, scale)], title)


def draw_spectra(
    responses: Mapping[str, np.ndarray],
    thresholds: Mapping[str, Threshold],
    bases: Mapping[str, Mapping[str, np.ndarray]],
    *,
    title: str = "",
) -> "Figure":
    """Draw gains, learned thresholds and orthogonal matrices, of what there is, a row or more each.

    Gains are in decibels, zero frequency in the middle; thresholds in standard deviations.
    """
    gains = {
        name.replace(_OF_FFC, "\n"): 20 * np.log10(np.maximum(gain, 1e-4))
        for name, gain in responses.items()
    }
    levels = {name: _middle(learned.threshold, 2) for name, learned in thresholds.items()}
    matrices = {f"{n}\n{axis}": m for n, axes in bases.items() for axis, m in axes.items()}
    groups = (
        _signed(gains, "gain in dB; 0: as strong as it came; zero frequency in the middle"),
        _signed(levels, "threshold of the SpectrumReLU, in standard deviations"),
        _signed(matrices, "entries of the orthogonal matrices; a row is a basis vector"),
    )
    return grid([group for group in groups if group.rows], title)


def _signed(maps: Mapping[str, np.ndarray], label: str) -> Group:
    """Return rows of four panels in colours that tell positive from negative."""
    finite = np.concatenate([[0.0], *(m[np.isfinite(m)] for m in maps.values())])
    reach = float(np.abs(finite).max()) or 1.0
    panels = [Panel(name, m) for name, m in maps.items()]
    norm = matplotlib().colors.Normalize(-reach, reach)
    rows = [panels[i : i + 4] for i in range(0, len(panels), 4)]
    return Group(rows, Scale(label, norm, "PuOr_r"))


def _pixels(images: ArrayLike) -> np.ndarray:
    """Return images as uint8 ``[N, (T,) H, W, 3]``."""
    images = np.asarray(images)
    if images.ndim not in (4, 5) or images.shape[-1] != 3:
        raise ValueError(f"images have shape {images.shape}; expected [N, (T,) H, W, 3]")
    if images.dtype == np.uint8:
        return images
    images = images.astype(np.float64)
    if not (np.isfinite(images).all() and images.min() >= -1e-6 and images.max() <= 1 + 1e-6):
        raise ValueError(
            f"images are {images.min():.3g} to {images.max():.3g}; "
            "expected floats from 0 to 1, or uint8"
        )
    return np.round(255 * np.clip(images, 0, 1)).astype(np.uint8)


def _middle(array: np.ndarray, rank: int = 3) -> np.ndarray:
    """Return the middle frame of what has more axes than ``rank``."""
    return array if array.ndim == rank else array[len(array) // 2]
