# SPDX-License-Identifier: Apache-2.0
"""The reporter of a run: progress, ``metrics.jsonl``, plots, TensorBoard, profile."""

import contextlib
import datetime
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import itemgetter
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from spectral_flax import buckets
from spectral_flax.files import is_empty_file
from spectral_flax.messages import reason
from train.config import Config
from train.data import Example, Source
from train.errors import UserError
from train.processes.distributed import is_main_process, prints
from train.processes.paths import set_aside
from train.report.metrics import Entry, Metrics
from train.report.plots import draw_curves, draw_samples
from train.report.profiler import Profile
from train.report.throughput import StepTimer, memory

# Scalars that are not averaged over the steps of a line.
LAST = {"learning_rate", "skipped"}
# What a run writes beside its checkpoints: one that begins puts aside what it finds there.
FILES = ("metrics.jsonl", "samples.png", "curves.png", "results.png")


class Report:
    """Shows a run from ``start`` to ``steps`` and keeps its metrics in ``workdir``.

    On a terminal a bar moves with each step; elsewhere each logged step is a line. Of the processes
    of a run only the first shows and writes. ``annotated`` returns the images of a batch with what
    the task asks for drawn on them. Raises UserError if a package is missing.
    """

    def __init__(
        self,
        workdir: Path,
        config: Config,
        source: Source,
        *,
        start: int,
        steps: int,
        annotated: Callable[[Example], np.ndarray] = itemgetter("image"),
    ):
        self.workdir, self.config, self.source = workdir, config, source
        self.start, self.steps, self.annotated = start, steps, annotated
        self.window: list[dict[str, float]] = []
        self.is_main = is_main_process()
        self.timer, self.interrupted = StepTimer(start), False
        self.profile = Profile(workdir / "profile", start, config.profile_steps)
        self.undrawn = self.is_main and not (start and (workdir / "samples.png").exists())
        self.console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
        self.console.quiet = not prints()
        if self.is_main:
            self.tensorboard = _tensorboard(workdir, start) if config.tensorboard else None
            if start == 0:
                _put_aside(workdir)
            self.metrics = Metrics(workdir / "metrics.jsonl", start, self.log)
        self.bar = Progress(
            MofNCompleteColumn(),
            BarColumn(bar_width=16),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("{task.fields[figures]}"),
            console=self.console,
            disable=not (self.is_main and self.console.is_terminal),
        )
        self.row = self.bar.add_task("", total=steps, completed=start, figures="compiling")

    def __enter__(self) -> "Report":
        self.bar.start()
        if self.bar.disable and self.start < self.steps:
            self.log("compiling the step")
        return self

    def __exit__(self, *exception) -> None:
        self.bar.stop()
        with self._attempt("the profile"):
            self.profile.stop()
        if self.profile.due and self.start < self.steps:
            self.log("the run was too short for a profile")
        if self.is_main and self.tensorboard is not None:
            with self._attempt("the end of the TensorBoard file"):
                self.tensorboard.close()

    def log(self, text: str) -> None:
        """Print a line, above the bar if there is one."""
        self.console.print(text, markup=False)

    def take(self, batches: Iterator[Example]) -> Example:
        """Return the next batch, counting how long it is waited for; draw the first of a run."""
        if self.interrupted:  # by an evaluation, and by what was saved after it
            self.timer.pause()
            self.interrupted = False
        with self.timer.waiting():
            batch = next(batches)
        if self.undrawn:
            with self.drawing("samples.png") as path:
                draw_samples(path, batch | {"image": self.annotated(batch)}, self.source)
            self.undrawn = False
        return batch

    def step(self, step: int, scalars: dict[str, float]) -> None:
        """Show a step that is done; ``step`` counts from 1.

        What is shown and kept are means over the steps since the last line.
        """
        self.timer.step(step)
        self.window.append(scalars)
        if self.profile.due:
            with self._attempt("the profile"):
                if self.profile.step(step):
                    self.log(f"traced {self.config.profile_steps} steps into {self.profile.folder}")
            self.timer.pause()
        if step % self.config.log_every and step != self.steps:
            self.bar.update(self.row, completed=step)
            return
        scalars, self.window = _means(self.window), []
        speed = self.timer.window(self.steps, self.config.batch_size) | memory()
        figures = [f"{name} {value:.4g}" for name, value in scalars.items()]
        if self.bar.disable:
            self.log("  ".join([f"step {step}/{self.steps}", *figures, *_shown(speed)]))
        else:  # what fits beside a bar on 80 columns
            shown = "  ".join([*figures[:2], *_shown(speed)[:1]])
            self.bar.update(self.row, completed=step, figures=shown)
        self._write(step, "train", scalars | speed)

    def evaluation(self, step: int, figures: dict[str, float]) -> None:
        """Show and keep the figures of the held-out examples, and draw the curves."""
        shown = "  ".join(f"{name} {value:.4f}" for name, value in figures.items())
        self.log(f"test at step {step}: {shown}")
        self._write(step, "test", figures)
        if self.is_main:
            curves = {split: self.metrics.of(split) for split in ("train", "test")}
            with self.drawing("curves.png") as path:
                draw_curves(path, curves, names=["loss", next(iter(figures))])
        self.interrupted = True

    @contextlib.contextmanager
    def drawing(self, name: str) -> Iterator[Path]:
        """Give the path of a picture; a fault in drawing it is said, and the run goes on."""
        with self._attempt(name):
            yield self.workdir / name

    def end(self) -> None:
        """Say what the run took."""
        peak = memory()
        device = peak.get("device_memory_gib")
        on_device = f", on the device {device:.2f} GiB" if device is not None else ""
        self.log(
            f"{self.timer.seconds():.0f} s, peak memory {peak['memory_gib']:.2f} GiB{on_device}, "
            f"in {self.workdir}"
        )

    def _write(self, step: int, split: str, figures: dict[str, float]) -> None:
        if not self.is_main:
            return
        self.metrics.write({"step": step, "split": split, **figures})
        if self.tensorboard is not None:
            with self._attempt("the TensorBoard file"):
                for name, value in figures.items():
                    self.tensorboard.add_scalar(f"{split}/{name}", value, step)

    @contextlib.contextmanager
    def _attempt(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # of a library, or a full disk: no reason to lose a run
            self.log(f"cannot write {what}: {type(error).__name__}: {reason(error)}; going on")


def _means(window: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each scalar over its finite values; of a rate or a count the last one."""
    means = dict(window[-1])
    for name in means.keys() - LAST:
        finite = [scalars[name] for scalars in window if math.isfinite(scalars[name])]
        means[name] = sum(finite) / len(finite) if finite else means[name]
    return means


def _put_aside(workdir: Path) -> None:
    try:
        for name in FILES:
            path = workdir / name
            if not is_empty_file(path):
                set_aside(path)
    except OSError as error:
        raise UserError(f"cannot write to {str(workdir)!r}: {reason(error)}") from error


def _shown(speed: Entry) -> list[str]:
    """Return throughput and the like in words; a window without a whole step has none."""
    words = []
    if "step_milliseconds" in speed:
        left = datetime.timedelta(seconds=round(speed["seconds_left"]))
        words = [
            f"{speed['examples_per_second']:.0f} examples/s",
            f"{speed['step_milliseconds']:.0f} ms/step",
            f"{speed['data_wait_share']:.0%} waiting for data",
            f"{left} left",
        ]
    return [*words, f"{speed.get('device_memory_gib', speed['memory_gib']):.2f} GiB"]


def _tensorboard(workdir: Path, start: int):
    if buckets.is_remote(workdir):
        raise UserError(
            f"--tensorboard appends to a file, which the bucket of {workdir} cannot: leave it "
            "out; metrics.jsonl holds the same, or give a local --workdir"
        )
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise UserError(
            "--tensorboard needs the package tensorboardX: pip install tensorboardX, or "
            "pip install -e '.[tensorboard]'"
        ) from error
    # A resumed run repeats the steps after its checkpoint: TensorBoard drops the first ones.
    try:
        return SummaryWriter(str(workdir / "tensorboard"), purge_step=start + 1)
    except OSError as error:
        raise UserError(f"cannot write to {str(workdir)!r}: {reason(error)}") from error
