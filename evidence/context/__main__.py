# SPDX-License-Identifier: Apache-2.0
"""What seeing the whole image is good for: small networks on tasks where context decides, or not.

Every network learns every task of its kind from new weights, with three seeds. Printed are tables;
written are ``benchmarks/results/context.json`` and a figure, as PNG and SVG. A run that was stopped
goes on where it was, and one that is done draws again.

Run: python -m evidence.context [--networks "ffc*"] [--tasks mirror] [--seeds 0 1 2]
"""

import argparse
import dataclasses
import fnmatch
import sys
from pathlib import Path

from benchmarks.results import write
from evidence.context.networks import NETWORKS
from evidence.context.report import as_markdown, draw, summarise
from evidence.context.runs import RUNS, rows_of, run_all
from evidence.context.tasks import TASKS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=["*"], help="names, or globs of them")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, default=RUNS, help="of results and weights")
    parser.add_argument("--figure", type=Path, default=RUNS / "context.png")
    given = parser.parse_args()
    names = [n for n in NETWORKS if any(fnmatch.fnmatchcase(n, p) for p in given.networks)]
    if not names:
        sys.exit(f"--networks {' '.join(given.networks)}: expected some of {', '.join(NETWORKS)}")
    run_all(names, given.tasks, given.seeds, given.folder)
    results = [row for name in NETWORKS for row in rows_of(given.folder / f"{name}.jsonl")]
    rows = summarise(results)
    for rank in (2, 3):
        print(f"\n{as_markdown(rows, rank)}")
    write("context", {"rows": [dataclasses.asdict(row) for row in rows], "results": results})
    draw(rows, given.figure)


if __name__ == "__main__":
    main()
