# SPDX-License-Identifier: Apache-2.0
"""Table, JSON and figure of what the networks learned."""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from flax import nnx
from matplotlib import pyplot as plt

from evidence.context.learning import TESTED, TESTED_OF_LENGTH
from evidence.context.networks import NETWORKS
from evidence.context.tasks import LENGTHS, LONG, TASKS, contour
from spectral_flax.analysis.profile import profile

TITLES = {
    "digits": "which digit?",
    "same_different": "same kind?",
    "mirror": "same height?",
    "contour": "long contour?",
    "repeat": "same motion?",
}
# Colours that the colour-blind tell apart (Okabe and Ito).
BLUE, ORANGE, GREEN = "#0072b2", "#e69f00", "#009e73"
RED, PURPLE, GREY = "#d55e00", "#cc79a7", "#777777"
SHOWN = {"plain": GREY, "nl": PURPLE, "srl_fft_gate": BLUE, "bat": ORANGE, "ffc": GREEN}


@dataclasses.dataclass(frozen=True)
class Row:
    """One network on one task, over seeds.

    Attributes:
      network, task: which.
      mean, deviation: of the accuracy (the deviation is that of a sample; 0 for one seed).
      above: how far the mean lies above what a local network can reach, in deviations. A
        deviation is at least that of drawing so many examples.
      by_length: mean accuracy for contours of each length.
      seconds: mean processor time of the training.
    """

    network: str
    task: str
    seeds: int
    mean: float
    deviation: float
    above: float
    by_length: dict[str, float]
    seconds: float


def summarise(results: Iterable[dict]) -> list[Row]:
    """Return a row for each network and task, in the order of their tables."""
    results = list(results)
    rows = []
    for network in NETWORKS:
        for name, task in TASKS.items():
            chosen = [r for r in results if r["network"] == network and r["task"] == name]
            if not chosen:
                continue
            found = np.array([_accuracy(r) for r in chosen])
            deviation = float(found.std(ddof=1)) if len(found) > 1 else 0.0
            tested = TESTED_OF_LENGTH if task.examples is contour else TESTED
            drawing = np.sqrt(task.bound * (1 - task.bound) / tested)
            by_length = {
                length: float(np.mean([r["by_length"][length] for r in chosen]))
                for length in chosen[0]["by_length"]
            }
            row = Row(
                network,
                name,
                len(found),
                float(found.mean()),
                deviation,
                float((found.mean() - task.bound) / max(deviation, drawing, 1e-9)),
                by_length,
                float(np.mean([r["seconds"] for r in chosen])),
            )
            rows.append(row)
    return rows


def _accuracy(result: dict) -> float:
    """Return the accuracy; of contours that of the long ones."""
    return result["by_length"].get(str(LONG), result["accuracy"])


def costs(names: Iterable[str]) -> dict[str, tuple[float, float]]:
    """Return the multiply-adds (millions) and parameters (thousands) of networks."""
    found = {}
    for name in names:
        network = NETWORKS[name]
        total = profile(nnx.eval_shape(lambda n=network: n.build(0)), (1, *network.shape)).total
        found[name] = total.multiply_adds / 1e6, total.parameters / 1e3
    return found


def as_markdown(rows: Sequence[Row], rank: int) -> str:
    """Return a table of the networks of images (2) or clips (3)."""
    tasks = [name for name, task in TASKS.items() if task.rank == rank]
    names = [n for n, network in NETWORKS.items() if network.rank == rank]
    by_key = {(row.network, row.task): row for row in rows}
    names = [n for n in names if any((n, t) in by_key for t in tasks)]
    head = [
        "network",
        *(TITLES[t] for t in tasks),
        "multiply-adds (M)",
        "parameters (k)",
        "seconds",
    ]
    lines = ["| " + " | ".join(head) + " |", "| --- " + "| ---: " * (len(head) - 1) + "|"]
    for name, (adds, parameters) in costs(names).items():
        cells = [_cell(by_key.get((name, task))) for task in tasks]
        seconds = sum(by_key[name, t].seconds for t in tasks if (name, t) in by_key)
        cells += [f"{adds:.1f}", f"{parameters:.0f}", f"{seconds:.0f}"]
        lines.append(f"| {NETWORKS[name].title} | " + " | ".join(cells) + " |")
    bounds = [_bound(TASKS[task]) for task in tasks]
    lines.append("| *no local network can do better* | " + " | ".join(bounds) + " | | | |")
    return "\n".join(lines)


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    above = f" ({row.above:+.0f})" if TASKS[row.task].bound < 1 and row.above >= 3 else ""
    return f"{row.mean:.3f} ± {row.deviation:.3f}{above}"


def _bound(task) -> str:
    return f"*{task.bound:.3f}*" if task.bound < 1 else ""


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw examples, accuracies of all image networks, and of contours by length: PNG and SVG."""
    plt.switch_backend("agg")
    plt.rcParams.update({"font.size": 12, "svg.fonttype": "none"})
    figure, axes = plt.subplots(
        2, 5, figsize=(10.2, 6.8), width_ratios=(1, 1, 1, 1, 1.3), height_ratios=(1, 3.8)
    )
    names = [name for name, network in NETWORKS.items() if network.rank == 2]
    for column, task in enumerate(("digits", "same_different", "mirror", "contour")):
        _draw_examples(axes[0, column], task)
        _draw_accuracies(axes[1, column], [row for row in rows if row.task == task], names)
    axes[1, 0].set_yticks(-np.arange(len(names)), [NETWORKS[name].title for name in names])
    axes[0, 4].axis("off")
    _draw_lengths(axes[1, 4], axes[0, 4], rows)
    figure.suptitle(
        "Where the answer lies further apart than a window sees, local networks guess (red)",
        fontsize=13,
    )
    figure.tight_layout(h_pad=0.3)
    for suffix in (".png", ".svg"):
        figure.savefig(path.with_suffix(suffix), dpi=112)
    plt.close(figure)


def _draw_examples(ax, task: str) -> None:
    images, labels = TASKS[task].examples("test", 16, np.random.default_rng(2))
    first, second = images[labels == max(labels)][0], images[labels == min(labels)][0]
    between = np.full((len(first), 3), 160)
    ax.imshow(np.concatenate([first[..., 0], between, second[..., 0]], axis=1), "gray")
    answers = "" if TASKS[task].bound == 1 else "yes             no"
    ax.set(title=TITLES[task], xticks=(), yticks=(), xlabel=answers)


def _draw_accuracies(ax, rows: Sequence[Row], names: Sequence[str]) -> None:
    """Draw a point a network; diamonds are those that no more than guess, or add scores."""
    for row in rows:
        bound = TASKS[row.task].bound
        sees = bound == 1 or row.above >= 3
        ax.errorbar(
            row.mean,
            -names.index(row.network),
            xerr=row.deviation,
            fmt="o" if sees else "D",
            color=BLUE if sees else RED,
            markersize=7,
            capsize=3,
        )
        if bound < 1:
            ax.axvspan(0.4, bound, color="#ececec", zorder=0)
    ax.set(xlim=(0.4, 1.04), ylim=(-len(names) + 0.4, 0.6), xlabel="accuracy")
    ax.set_xticks((0.5, 1.0))
    ax.set_yticks(-np.arange(len(names)), ())
    ax.grid(axis="y", color="#dddddd", linewidth=0.6)


def _draw_lengths(ax, above, rows: Sequence[Row]) -> None:
    for row in rows:
        if row.task == "contour" and row.network in SHOWN:
            accuracy = [row.by_length[str(length)] for length in LENGTHS]
            label = NETWORKS[row.network].title
            ax.plot(LENGTHS, accuracy, "o-", color=SHOWN[row.network], label=label)
    ax.set(title="contours by length", xlabel="pixels", ylim=(0.4, 1.04))
    ax.set_xticks(LENGTHS)
    ax.set_yticks((0.5, 0.75, 1.0))
    ax.yaxis.tick_right()
    handles = ax.get_legend_handles_labels()
    above.legend(*handles, loc="center", frameon=False, title="from above")
