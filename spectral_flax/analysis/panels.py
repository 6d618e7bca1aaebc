# SPDX-License-Identifier: Apache-2.0
"""Grids of maps with titles and colour bars, drawn by Matplotlib, and their files.

``pip install "spectral-flax[figures]"``; Matplotlib is imported inside the functions.
"""

import functools
import os
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from spectral_flax.files import local_path, new_file, refuse_existing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 8.0
"""Of a figure in inches: the width of a page."""
DPI = 112
"""Dots per inch."""
_STYLE = {"font.size": 12, "axes.titlesize": 12, "svg.fonttype": "none", "savefig.dpi": DPI}
_OVER = 0.65  # opacity of a map over its image


@functools.cache
def matplotlib():
    """Return Matplotlib; without it an ImportError says what to install."""
    try:
        import matplotlib
    except ImportError as error:
        message = 'figures need Matplotlib: pip install "spectral-flax[figures]"'
        raise ImportError(message) from error
    return matplotlib


def check_figure(path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Raise a ValueError or OSError if a figure can not be written to ``path``."""
    path = local_path(path, "output")
    if path.suffix.lower() not in (".png", ".svg"):
        raise ValueError(f"output {str(path)!r}; expected a name that ends in .png or .svg")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"output {str(path)!r}: there is no folder {str(path.parent)!r}")
    refuse_existing([path], overwrite=overwrite)


def save_figure(figure: "Figure", path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Write a figure as PNG or SVG, as the suffix says.

    Raises:
      ValueError: another suffix.
      FileExistsError: ``path`` exists and ``overwrite`` is not set.
      FileNotFoundError: it is in no folder.
    """
    check_figure(path, overwrite=overwrite)
    kind = pathlib.Path(path).suffix.lower()[1:]
    with matplotlib().rc_context(_STYLE), new_file(path, overwrite=overwrite) as draft:
        figure.savefig(draft, format=kind)


class Panel(NamedTuple):
    """A map, its title, and what is drawn on it."""

    title: str
    map: np.ndarray
    """Colours ``[H, W, 3]``, or numbers ``[H, W]``."""
    under: np.ndarray | None = None
    """An image that shines through."""
    mark: tuple[float, float] | None = None
    """y, x of a cross, as shares of height and width."""
    radius: float | None = None
    """Of a circle around the mark or the middle, in pixels."""


class Scale(NamedTuple):
    """How numbers become colours, and what they are."""

    label: str
    norm: Any
    """A norm of Matplotlib."""
    colours: str = "inferno"


class Group(NamedTuple):
    """Rows of panels, `None` where there is none, with one scale; below a title of their own."""

    rows: Sequence[Sequence[Panel | None]]
    scale: Scale
    title: str = ""


def decades(maps: Sequence[np.ndarray]) -> Any:
    """Return a norm by decades for maps of mean 1; one that is linear if some are negative."""
    shown = np.concatenate([m.ravel() for m in maps])
    if shown.min() < 0:
        return matplotlib().colors.Normalize(shown.min(), shown.max())
    return matplotlib().colors.LogNorm(0.1, max(10.0, shown.max()), clip=True)


def grid(groups: Sequence[Group], title: str) -> "Figure":
    """Draw groups of panels below each other, with a colour bar below those of one scale."""
    matplotlib()
    from matplotlib.figure import Figure

    columns = max(len(row) for group in groups for row in group.rows)
    last = [
        i + 1 == len(groups) or groups[i + 1].scale is not g.scale for i, g in enumerate(groups)
    ]
    heights = [
        sum(_row_height(row, columns) for row in group.rows) + 0.65 * bar + 0.3 * bool(group.title)
        for group, bar in zip(groups, last, strict=True)
    ]
    head = 0.28 * (title.count("\n") + 1) + 0.1
    with matplotlib().rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH, sum(heights) + head), dpi=DPI, layout="constrained")
        figure.suptitle(title, fontsize=13)
        parts = figure.subfigures(len(groups), 1, squeeze=False, height_ratios=heights)
        for part, group, bar in zip(parts[:, 0], groups, last, strict=True):
            _draw_group(part, group, columns, bar)
    return figure


def _row_height(row: Sequence[Panel | None], columns: int) -> float:
    """Return the height of a row in inches."""
    panels = [panel for panel in row if panel is not None]
    lines = max(panel.title.count("\n") + 1 if panel.title else 0 for panel in panels)
    return WIDTH / columns * max(p.map.shape[0] / p.map.shape[1] for p in panels) + 0.21 * lines


def _draw_group(part: Any, group: Group, columns: int, bar: bool) -> None:
    from matplotlib.cm import ScalarMappable

    if group.title:
        part.suptitle(group.title, fontsize=12, fontweight="bold")
    heights = [_row_height(row, columns) for row in group.rows]
    axes = part.subplots(len(group.rows), columns, squeeze=False, height_ratios=heights)
    for row, places in zip(group.rows, axes, strict=True):
        for place in places:
            place.set_axis_off()
        for panel, place in zip(row, places, strict=False):
            if panel is not None:
                _draw(place, panel, group.scale)
    if bar:
        shown = ScalarMappable(group.scale.norm, group.scale.colours)
        below = dict(location="bottom", aspect=45, fraction=0.05, pad=0.02)
        drawn = part.colorbar(shown, ax=axes.ravel().tolist(), label=group.scale.label, **below)
        drawn.formatter = "{x:g}"  # 0.1, where a logarithmic norm would write a power of ten
        drawn.update_ticks()


def _draw(axes: "Axes", panel: Panel, scale: Scale) -> None:
    height, width = (panel.map if panel.under is None else panel.under).shape[:2]
    area = dict(extent=(0, width, height, 0), interpolation="nearest")
    if panel.under is not None:
        grey = panel.under.astype(np.float32).mean(-1)
        axes.imshow(grey, cmap="gray", **area)
    if panel.map.ndim == 3:
        axes.imshow(panel.map, **area)
    else:
        smooth = dict(area, interpolation="bilinear") if panel.under is not None else area
        over = 1.0 if panel.under is None else _OVER
        axes.imshow(panel.map, cmap=scale.colours, norm=scale.norm, alpha=over, **smooth)
    axes.set_title(panel.title)
    if panel.mark is not None:
        y, x = panel.mark[0] * height, panel.mark[1] * width
        if panel.radius is None:
            axes.plot(x, y, "+", color="black", markersize=13, markeredgewidth=4)
            axes.plot(x, y, "+", color="cyan", markersize=12, markeredgewidth=2)
        else:
            angle = np.linspace(0, 2 * np.pi, 200)
            circle = x + panel.radius * np.cos(angle), y + panel.radius * np.sin(angle)
            axes.plot(*circle, color="cyan", linewidth=1.5)
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
