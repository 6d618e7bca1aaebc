# SPDX-License-Identifier: Apache-2.0
"""What a run shows and keeps: progress, ``metrics.jsonl``, ``curves.png``."""

import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Entry = dict[str, Any]


class Metrics:
    """The lines of ``metrics.jsonl``: one for each logged step and split.

    A resumed run repeats the steps after its checkpoint, so lines past ``step`` are dropped on
    opening, and so is a line that a kill cut short. A run that begins puts an older file aside.
    """

    def __init__(self, path: Path, step: int):
        self.path = path
        if step == 0 and path.exists() and path.stat().st_size:
            number = 1 + len(list(path.parent.glob("metrics.before_*.jsonl")))
            path.rename(path.with_name(f"metrics.before_{number}.jsonl"))
        self.entries: dict[tuple[int, str], Entry] = {}
        for line in path.read_text().splitlines() if path.exists() else ():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                continue
            if entry["step"] <= step:
                self.entries[entry["step"], entry["split"]] = entry
        self._rewrite()

    def write(self, entry: Entry) -> None:
        """Add a line, in place of the one with the same step and split if there is one."""
        key = entry["step"], entry["split"]
        known = key in self.entries
        self.entries[key] = entry
        if known:
            self._rewrite()
        else:
            with self.path.open("a") as file:
                file.write(json.dumps(entry) + "\n")

    def of(self, split: str) -> list[Entry]:
        """Return the entries of a split in the order of steps."""
        return [self.entries[key] for key in sorted(self.entries) if key[1] == split]

    def _rewrite(self) -> None:
        draft = self.path.with_suffix(".draft")
        draft.write_text("".join(json.dumps(entry) + "\n" for entry in self.entries.values()))
        os.replace(draft, self.path)


class Report:
    """Shows a run from ``start`` to ``steps`` and keeps its metrics in ``workdir``.

    On a terminal a bar moves with each step; elsewhere each logged step is a line.
    """

    def __init__(self, workdir: Path, *, start: int, steps: int, log_every: int, batch_size: int):
        self.workdir, self.steps, self.log_every = workdir, steps, log_every
        self.batch_size = batch_size
        self.metrics = Metrics(workdir / "metrics.jsonl", start)
        self.began = self.last_time = time.perf_counter()
        self.last_step = start
        self.console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
        self.bar = Progress(
            MofNCompleteColumn(),
            BarColumn(bar_width=16),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("{task.fields[figures]}"),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.row = self.bar.add_task("", total=steps, completed=start, figures="compiling")

    def __enter__(self) -> "Report":
        self.bar.start()
        if self.bar.disable and self.last_step < self.steps:
            self.say("compiling the step")
        return self

    def __exit__(self, *exception) -> None:
        self.bar.stop()

    def say(self, text: str) -> None:
        """Print a line, above the bar if there is one."""
        self.console.print(text, markup=False)

    def step(self, step: int, scalars: dict[str, float]) -> None:
        """Show a step that is done; ``step`` counts from 1."""
        if step % self.log_every and step != self.steps:
            self.bar.update(self.row, completed=step)
            return
        now = time.perf_counter()
        speed = (step - self.last_step) * self.batch_size / (now - self.last_time)
        self.last_step, self.last_time = step, now
        figures = [f"{name} {value:.4g}" for name, value in scalars.items()]
        if self.bar.disable:
            self.say("  ".join([f"step {step}/{self.steps}", *figures, f"{speed:.0f} examples/s"]))
        else:  # what fits beside a bar on 80 columns
            shown = "  ".join([*figures[:2], f"{speed:.0f}/s"])
            self.bar.update(self.row, completed=step, figures=shown)
        seconds = round(now - self.began, 3)
        entry = {"step": step, "split": "train", **scalars}
        self.metrics.write(entry | {"examples_per_second": round(speed, 1), "seconds": seconds})

    def evaluation(self, step: int, figures: dict[str, float]) -> None:
        """Show and keep the figures of the held-out examples, and draw the curves."""
        before = time.perf_counter()
        self.metrics.write({"step": step, "split": "test", **figures})
        shown = "  ".join(f"{name} {value:.4f}" for name, value in figures.items())
        self.say(f"test at step {step}: {shown}")
        self.curves()
        self.last_time += time.perf_counter() - before

    def end(self) -> None:
        """Say what the run took."""
        seconds = time.perf_counter() - self.began
        self.say(f"{seconds:.0f} s, peak memory {peak_memory() / 2**30:.2f} GiB, in {self.workdir}")

    def curves(self) -> None:
        """Draw loss and accuracy against the step into ``curves.png``."""
        from matplotlib.figure import Figure  # half a second, only needed here

        figure = Figure(figsize=(9, 3.5), layout="constrained")
        for axes, name in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
            for split in ("train", "test"):
                points = [(e["step"], e[name]) for e in self.metrics.of(split) if name in e]
                if points:
                    mark = "o-" if split == "test" else "-"
                    axes.plot(*zip(*points, strict=True), mark, label=split, markersize=3)
                    axes.legend()
            axes.set_xlabel("step")
            axes.set_title(name)
            axes.grid(alpha=0.3)
        draft = self.workdir / "curves.draft"
        figure.savefig(draft, format="png", dpi=120)
        os.replace(draft, self.workdir / "curves.png")


def peak_memory() -> int:
    """Return the most memory this process has held, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
