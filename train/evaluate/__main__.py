# SPDX-License-Identifier: Apache-2.0
"""``spectral-flax evaluate``: metrics of a saved run, or of weights, on held-out examples."""

import dataclasses
import logging
import sys
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import jax
import tyro
from rich.console import Console
from rich.progress import track

from spectral_flax.files import any_path
from spectral_flax.kept_programs import keep_programs
from spectral_flax.kernels.cpu import keep_freed_memory
from train.command.line import load, take_options
from train.config import Config, Data, Mesh
from train.errors import UserError
from train.evaluate.results import check_folder, write_results
from train.evaluate.runs_and_weights import (
    Evaluation,
    config_of,
    evaluate_run,
    evaluate_weights,
    run_config,
    weights_at,
)
from train.fields import Count, conformed
from train.processes.paths import given_path, local_path


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    """Evaluate a saved run (--workdir) or weights (--weights) on held-out examples.

    --task-options.NAME VALUE changes an option of the task, such as views-at-once.
    """

    workdir: str | None = None
    """Directory of a run; its data set is used, with what --data.* changes."""
    step: int | None = None
    """Step of the run's checkpoint to evaluate; None: the newest sound one."""
    best: bool = False
    """Evaluate the run's best checkpoint in place of its newest."""
    ema: bool = True
    """Take the averaged parameters of a run that keeps them."""
    weights: str | None = None
    """Weights in place of a run: .safetensors, .pth, an Orbax or Hub folder, or a Hub name."""
    model: str | None = None
    """Model of the weights, where they do not say; its options are --options.NAME VALUE."""
    entry: str | None = None
    """Which set of weights, where there are several: its place in the file, joined by dots."""
    scaling: Literal["data", "card"] = "data"
    """Scale images by the data set's mean and deviation, or by those on the model's card."""
    plugins: tuple[str, ...] = ()
    """Python files, or modules, of your own to import; by default those that the run names."""
    config: str | None = None
    """Config file to run first: it may register the model; weights take its data and options.
    None: weights of a run of this program take its own."""
    knn: Count | None = None
    """Also classify by so many nearest training examples, by their features."""
    devices: Count | None = None
    """Number of devices to use; None: as many as the run used, of those there are."""
    eval_batch_size: Count | None = None
    """Examples a batch, over all devices together; None: as the config says."""
    output: str | None = None
    """Folder to write the metrics, a table of classes and the confusion matrix to."""
    overwrite: bool = False
    """Write them in place of those that the folder holds."""
    data: Data = dataclasses.field(default_factory=Data)
    """Where examples come from."""


def main(
    arguments: Sequence[str],
    program: str = "python -m train.evaluate",
    *,
    own_process: bool = False,
) -> int:
    """Run the command line and return the exit code; see `train.__main__.main`."""
    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax warns that it only reads
    try:
        found = _evaluate(list(arguments), program, own_process)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Ctrl-C: stopped", file=sys.stderr)
        return 130
    place = f", step {found.origin['step']}" if "step" in found.origin else ""
    print(f"{found.config.model} on {found.config.data.name}{place}")
    for name, value in found.metrics.items():
        print(f"  {name:20} {value:.4f}")
    return 0


def _evaluate(words: list[str], program: str, own_process: bool) -> Evaluation:
    named, words = take_options(Config(), words)
    given = _parse(words, Data(), program)
    _check(given, named)
    if own_process:
        keep_freed_memory()
        keep_programs()
    base = load(given.config) if given.config is not None else Config()
    if given.output is not None:
        check_folder(any_path(given.output), overwrite=given.overwrite)
    if given.workdir is not None:
        base = run_config(given.workdir, step=given.step, best=given.best)
    else:
        weights = weights_at(given.weights, entry=given.entry, ema=given.ema)
        base = base if given.config is not None else config_of(weights)
    given = _parse(words, base.data, program)  # once more: what is not given is as in the config

    # What a run names is imported; what weights name, which may be anybody's, is not.
    trusted = given.workdir is not None or given.config is not None

    def change(config: Config) -> Config:
        there = len(jax.devices())
        devices = config.mesh.devices and min(config.mesh.devices, there)
        return dataclasses.replace(
            config,
            data=given.data,
            mesh=Mesh(devices=given.devices or devices),
            eval_batch_size=given.eval_batch_size or config.eval_batch_size,
            task_options=config.task_options | named.task_options,
            plugins=given.plugins or (config.plugins if trusted else ()),
        )

    if given.workdir is not None:
        which = dict(step=given.step, best=given.best, ema=given.ema, knn=given.knn)
        found = evaluate_run(given.workdir, **which, change=change, watch=_watch)
    else:
        if given.config is not None and given.model in (None, base.model):
            given = dataclasses.replace(given, model=base.model)
            named = dataclasses.replace(named, options=base.options | named.options)
        base = dataclasses.replace(change(base), options=named.options)
        card = given.scaling == "card"
        found = evaluate_weights(
            given.weights,
            weights,
            base,
            model=given.model,
            card_scaling=card,
            knn=given.knn,
            watch=_watch,
        )
    if given.output is not None:
        write_results(any_path(given.output), found, overwrite=given.overwrite)
    return found


def _parse(words: list[str], data: Data, program: str) -> Arguments:
    given = tyro.cli(Arguments, default=Arguments(data=data), args=words, prog=program)
    # Weights may be on the Hub: their reader looks.
    kinds = {"workdir": given_path, "config": local_path, "output": given_path}
    named = {name: getattr(given, name) for name in kinds if getattr(given, name) is not None}
    found = {name: kinds[name](f"--{name}", path) for name, path in named.items()}
    return dataclasses.replace(given, **found)


def _check(given: Arguments, named: Config) -> None:
    if (given.workdir is None) == (given.weights is None):
        raise UserError("give --workdir DIR, to evaluate a run, or --weights FILE; not both")
    runs_only = {"--step": given.step is not None, "--best": given.best}
    weights_only = {
        "--model": given.model is not None,
        "--entry": given.entry is not None,
        "--scaling": given.scaling != "data",
        "--options": bool(named.options),
    }
    wrong = weights_only if given.weights is None else runs_only
    for name, is_given in wrong.items():
        if is_given:
            kind = "weights" if given.weights is None else "a run"
            raise UserError(f"{name} belongs to the evaluation of {kind}")
    faults = conformed(given)[1]
    if faults:
        raise UserError("\n".join(faults))


def _watch(batches: Iterable[Any], total: int) -> Iterable[Any]:
    console = Console(stderr=True)
    return track(batches, "evaluating", total, console=console, disable=not console.is_terminal)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], own_process=True))
