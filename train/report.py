# SPDX-License-Identifier: Apache-2.0
"""What a run shows and keeps: progress, ``metrics.jsonl``, pictures, TensorBoard, a profile."""

import datetime
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from train.config import Config
from train.data import Example, Source
from train.errors import UserError
from train.pace import Pace, memory
from train.pictures import draw_curves, draw_samples
from train.processes import leads
from train.profiling import Profile

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

    On a terminal a bar moves with each step; elsewhere each logged step is a line. Of the processes
    of a run only the first shows and writes. Raises UserError if a package is missing.
    """

    def __init__(self, workdir: Path, config: Config, source: Source, *, start: int, steps: int):
        self.workdir, self.config, self.source = workdir, config, source
        self.start, self.steps = start, steps
        self.leads = leads()
        self.pace, self.interrupted = Pace(start), False
        self.profile = Profile(workdir / "profile", start, config.profile_steps)
        self.samples = workdir / "samples.png"
        self.undrawn = self.leads and not (start and self.samples.exists())
        self.console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
        self.console.quiet = not self.leads
        if self.leads:
            self.tensorboard = _tensorboard(workdir, start) if config.tensorboard else None
            self.metrics = Metrics(workdir / "metrics.jsonl", start)
        self.bar = Progress(
            MofNCompleteColumn(),
            BarColumn(bar_width=16),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("{task.fields[figures]}"),
            console=self.console,
            disable=not (self.leads and self.console.is_terminal),
        )
        self.row = self.bar.add_task("", total=steps, completed=start, figures="compiling")

    def __enter__(self) -> "Report":
        self.bar.start()
        if self.bar.disable and self.start < self.steps:
            self.say("compiling the step")
        return self

    def __exit__(self, *exception) -> None:
        self.bar.stop()
        self.profile.stop()
        if self.profile.due and self.start < self.steps:
            self.say("the run was too short for a profile")
        if self.leads and self.tensorboard is not None:
            self.tensorboard.close()

    def say(self, text: str) -> None:
        """Print a line, above the bar if there is one."""
        self.console.print(text, markup=False)

    def take(self, batches: Iterator[Example]) -> Example:
        """Return the next batch, counting how long it is waited for; draw the first of a run."""
        if self.interrupted:  # by an evaluation, and by what was saved after it
            self.pace.pause()
            self.interrupted = False
        with self.pace.waiting():
            batch = next(batches)
        if self.undrawn:
            draw_samples(self.samples, batch, self.source)
            self.undrawn = False
        return batch

    def step(self, step: int, scalars: dict[str, float]) -> None:
        """Show a step that is done; ``step`` counts from 1."""
        self.pace.step(step)
        if self.profile.due:
            if self.profile.step(step):
                self.say(f"traced {self.config.profile_steps} steps into {self.profile.folder}")
            self.pace.pause()
        if step % self.config.log_every and step != self.steps:
            self.bar.update(self.row, completed=step)
            return
        pace = self.pace.window(self.steps, self.config.batch_size) | memory()
        figures = [f"{name} {value:.4g}" for name, value in scalars.items()]
        if self.bar.disable:
            self.say("  ".join([f"step {step}/{self.steps}", *figures, *_shown(pace)]))
        else:  # what fits beside a bar on 80 columns
            shown = "  ".join([*figures[:2], *_shown(pace)[:1]])
            self.bar.update(self.row, completed=step, figures=shown)
        self._write(step, "train", scalars | pace)

    def evaluation(self, step: int, figures: dict[str, float]) -> None:
        """Show and keep the figures of the held-out examples, and draw the curves."""
        shown = "  ".join(f"{name} {value:.4f}" for name, value in figures.items())
        self.say(f"test at step {step}: {shown}")
        self._write(step, "test", figures)
        if self.leads:
            curves = {split: self.metrics.of(split) for split in ("train", "test")}
            draw_curves(self.workdir / "curves.png", curves, names=["loss", next(iter(figures))])
        self.interrupted = True

    def end(self) -> None:
        """Say what the run took."""
        peak = memory()
        device = peak.get("device_memory_gib")
        on_device = f", on the device {device:.2f} GiB" if device is not None else ""
        self.say(
            f"{self.pace.seconds():.0f} s, peak memory {peak['memory_gib']:.2f} GiB{on_device}, "
            f"in {self.workdir}"
        )

    def _write(self, step: int, split: str, figures: dict[str, float]) -> None:
        if not self.leads:
            return
        self.metrics.write({"step": step, "split": split, **figures})
        if self.tensorboard is not None:
            for name, value in figures.items():
                self.tensorboard.add_scalar(f"{split}/{name}", value, step)


def _shown(pace: Entry) -> list[str]:
    """Return the pace in words, speed first; a window without a whole step has none."""
    words = []
    if "step_milliseconds" in pace:
        left = datetime.timedelta(seconds=round(pace["seconds_left"]))
        words = [
            f"{pace['examples_per_second']:.0f} examples/s",
            f"{pace['step_milliseconds']:.0f} ms/step",
            f"{pace['data_wait_share']:.0%} waiting for data",
            f"{left} left",
        ]
    return [*words, f"{pace.get('device_memory_gib', pace['memory_gib']):.2f} GiB"]


def _tensorboard(workdir: Path, start: int):
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise UserError(
            "--tensorboard needs the package tensorboardX: pip install tensorboardX, or "
            "pip install -e '.[tensorboard]'"
        ) from error
    # A resumed run repeats the steps after its checkpoint: TensorBoard drops the first ones.
    return SummaryWriter(str(workdir / "tensorboard"), purge_step=start + 1)
