# SPDX-License-Identifier: Apache-2.0
"""Ours against PyTorch and JaxNN, each alone in its process, at its best settings, in turns.

Suites: plain forms (a convolution, a batch normalisation, a transform: where the libraries differ
before anything of ours begins), operators, and models. A peer's numbers are compared with the
published ones before anything is timed. Each side's settings take a short turn each; the fastest
is named and takes the turns that count. Prints Markdown tables and writes
benchmarks/results/compare_SUITE_PRECISION.json.

Run: pip install -e ".[bench]"        (and jaxnn, in an environment with torchvision)
     python -m benchmarks.compare plain operators models
     python -m benchmarks.compare models --only resnet50 --work training --compiled --turns 5
"""

import argparse
import statistics
from collections.abc import Iterator

from benchmarks import harness, sides
from benchmarks.cases import SUITES
from benchmarks.turns import (
    BUSY,
    Effort,
    Failed,
    fastest,
    one_turn,
    ratio,
    refuse_a_busy_machine,
    summary,
    take_turns,
)


def validated(suite: str, names: list[str], wanted: list[str]) -> None:
    """Raise SystemExit if PyTorch is missing, or a peer gives other numbers than published."""
    if "PyTorch" not in wanted:
        return
    try:
        import torch  # noqa: F401
    except ImportError:
        raise SystemExit('PyTorch is missing: pip install -e ".[bench]", or --sides ours') from None
    from benchmarks.peers.validate import validate

    for case in sorted({SUITES[suite][name].parity or "" for name in names} - {""}):
        validate(case)


def row(given: dict, wanted: list[str], effort: Effort, compiled: bool, memory: bool) -> dict:
    """Return the settings, seconds, memory and ratios of all sides for one piece of work."""
    found: dict = dict(given, sides={})
    chosen = {}
    for side, settings in sides.contestants(given, compiled).items():
        if side not in wanted:
            continue
        try:
            chosen[side], tried = fastest(settings, effort)
            found["sides"][side] = {"setting": chosen[side].name, "tried": tried}
        except Failed as failure:
            found["sides"][side] = {"failed": str(failure)}
    results = take_turns(chosen, effort)
    for side, mine in results.items():
        found["sides"][side] |= summary(mine)
        if memory and "failed" not in mine[-1]:
            found["sides"][side]["bytes"] = one_turn(chosen[side], effort, memory=True)["bytes"]
    complete = {side: mine for side, mine in results.items() if "failed" not in mine[-1]}
    if "ours" in complete:
        found["ratios"] = {
            side: ratio(mine, complete["ours"]) for side, mine in complete.items() if side != "ours"
        }
    return found


def lines(found: dict) -> Iterator[str]:
    """Yield a line of the table for each side."""
    size = "x".join(map(str, found["shape"]))
    ours = found["sides"].get("ours", {})
    for side, mine in found["sides"].items():
        start = f"| {found['name']} {size} | {found['work']} | {side}"
        if "failed" in mine:
            yield f"{start} | failed: {mine['failed']} | | | |"
            continue
        against = found.get("ratios", {}).get(side)
        cells = [
            mine["setting"],
            "{:.2f} ({:.2f} to {:.2f})".format(
                *(1e3 * mine[k] for k in ("seconds", "least", "most"))
            ),
            "{ratio:.2f} ({least:.2f} to {most:.2f})".format(**against) if against else "",
            f"{mine['bytes'] / 2**20:.0f}" if "bytes" in mine else "",
            " ".join(f"{k} {v:.1f}" for k, v in mine["facts"].items() if k != "device"),
        ]
        busy = ", machine busy" if max(mine["others"], ours.get("others", 0)) > BUSY else ""
        yield f"{start} | {' | '.join(cells)}{busy} |"


def means(rows: list[dict]) -> Iterator[str]:
    """Yield the geometric mean over shapes of each name and work that has several."""
    grouped: dict[tuple[str, str, str], list[float]] = {}
    for found in rows:
        for side, against in found.get("ratios", {}).items():
            key = found["name"], found["work"], side
            grouped.setdefault(key, []).append(against["ratio"])
    for key, ratios in grouped.items():
        if len(ratios) > 1:
            spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
            yield f"| {' | '.join(key)} | {statistics.geometric_mean(ratios):.2f} ({spread}) |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("suites", nargs="+", choices=SUITES)
    parser.add_argument("--only", nargs="+", help="names of the suite")
    parser.add_argument("--work", nargs="+", choices=["inference", "gradients", "training"])
    parser.add_argument("--sides", nargs="+", default=["ours", "PyTorch", "jaxnn"])
    parser.add_argument("--compiled", action="store_true", help="try torch.compile as well")
    parser.add_argument(
        "--precision", choices=["float32", "tf32", "bfloat16"], default="float32",
        help="of products: tf32 on GPUs; bfloat16, PyTorch by autocast",
    )  # fmt: skip
    parser.add_argument("--batch", type=int, help="in place of that of each shape")
    parser.add_argument("--quick", action="store_true", help="one turn of small shapes: a trial")
    parser.add_argument("--turns", type=int, default=3, help="processes of each side")
    parser.add_argument("--busy", action="store_true", help="time on a busy machine, marked")
    given = parser.parse_args()
    effort = Effort(turns=1, groups=2, seconds=0.02) if given.quick else Effort(given.turns)
    chosen = {suite: given.only or list(SUITES[suite]) for suite in given.suites}
    for suite, names in chosen.items():
        if unknown := set(names) - set(SUITES[suite]):
            raise SystemExit(f"{suite} has no {sorted(unknown)}; it has {', '.join(SUITES[suite])}")
        validated(suite, names, given.sides)
    load = refuse_a_busy_machine(given.busy or given.quick)
    for suite, names in chosen.items():
        rows = []
        print("| what | work | side | setting | ms (least to most) | / ours | MiB | s |")
        print("| --- | --- | --- | --- | ---: | ---: | ---: | --- |")
        for name in names:
            case = SUITES[suite][name]
            for shape in case.quick if given.quick else case.shapes:
                for work in (w for w in case.works if w in (given.work or case.works)):
                    shape = (given.batch or shape[0], *shape[1:])
                    what = dict(suite=suite, name=name, shape=shape, work=work)
                    what["precision"] = given.precision
                    rows.append(row(what, given.sides, effort, given.compiled, suite == "models"))
                    print("\n".join(lines(rows[-1])), flush=True)
        print("\n".join(["", *means(rows)]))
        devices = [s["facts"]["device"] for r in rows for s in r["sides"].values() if "facts" in s]
        about = harness.about(devices[0] if devices else "none") | {"load": round(load, 2)}
        harness.save(f"compare_{suite}_{given.precision}", {"about": about, "rows": rows})


if __name__ == "__main__":
    main()
