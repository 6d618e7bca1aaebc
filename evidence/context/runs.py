# SPDX-License-Identifier: Apache-2.0
"""Many trainings side by side: a process a core, and a file of results a network."""

import concurrent.futures
import dataclasses
import json
import multiprocessing
import os
import time
from collections.abc import Sequence
from pathlib import Path

from evidence.context.learning import Learner
from evidence.context.networks import NETWORKS
from evidence.context.tasks import TASKS
from spectral_flax.kernels.cpu import keep_freed_memory

RUNS = Path("runs/context")


def run_all(names: Sequence[str], tasks: Sequence[str], seeds: Sequence[int], folder: Path) -> None:
    """Let every network learn its tasks, but for those whose results the folder has."""
    folder.mkdir(parents=True, exist_ok=True)
    threads = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {threads}"
    begun = time.perf_counter()
    context = multiprocessing.get_context("spawn")
    cores = context.Manager().Queue()
    for core in os.sched_getaffinity(0):
        cores.put(core)
    count = min(cores.qsize(), len(names))
    with concurrent.futures.ProcessPoolExecutor(count, context, _one_core, (cores,)) as workers:
        pending = [workers.submit(learn_all, name, tasks, seeds, folder) for name in names]
        for future in concurrent.futures.as_completed(pending):
            minutes = (time.perf_counter() - begun) / 60
            print(f"{future.result()} after {minutes:.1f} min", flush=True)


def learn_all(name: str, tasks: Sequence[str], seeds: Sequence[int], folder: Path) -> str:
    """Let one network learn its tasks; a line of its file is written after each."""
    file = folder / f"{name}.jsonl"
    done = {(row["task"], row["seed"]) for row in rows_of(file)}
    learner = Learner(name)
    for task in tasks:
        for seed in seeds:
            if TASKS[task].rank != NETWORKS[name].rank or (task, seed) in done:
                continue
            weights = folder / "weights" / f"{name}.{task}.{seed}.npz"
            result = learner.learn(TASKS[task], seed, weights)
            with file.open("a") as lines:
                lines.write(json.dumps(dataclasses.asdict(result)) + "\n")
    return name


def rows_of(file: Path) -> list[dict]:
    """Return the results in a file, but for a line that was cut off."""
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text().splitlines() if line.endswith("}")]


def _one_core(cores) -> None:
    """Keep a worker on a core of its own: two one-threaded runs are faster than one of two."""
    os.sched_setaffinity(0, {cores.get()})
    keep_freed_memory()
