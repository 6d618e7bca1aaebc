"""Contestants that take turns as processes: what they report, who fails, and when it is refused."""

import dataclasses
import sys

import pytest

from benchmarks import compare, sides, turns
from benchmarks.cases import SUITES
from benchmarks.turns import Contestant, Effort, Failed

TOY = """
import os, time
from benchmarks.turns import Prepared

def sleep(seconds):
    return Prepared(lambda calls: time.sleep(calls * seconds), {"process": os.getpid()})

def fail():
    raise ValueError("no such form")

def grow(mebibytes):
    return Prepared(lambda calls: bytearray(b"x") * (mebibytes << 20))
"""
EFFORT = Effort(turns=2, groups=2, seconds=0.0)


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """Return a contestant of a function of a module that only its process can import."""
    (tmp_path / "toy_contestants.py").write_text(TOY)
    monkeypatch.chdir(turns.__file__.rsplit("/", 2)[0])
    path = {"PYTHONPATH": str(tmp_path)}
    return lambda name, **arguments: Contestant(name, f"toy_contestants:{name}", arguments, path)


def test_each_turn_is_a_process_of_its_own_and_a_failure_takes_no_further_turn(toy):
    found = turns.take_turns({"a": toy("sleep", seconds=0.01), "b": toy("fail")}, EFFORT)
    assert len({turn["facts"]["process"] for turn in found["a"]}) == EFFORT.turns
    assert turns.summary(found["a"])["seconds"] == pytest.approx(0.01, rel=0.5)
    assert found["b"] == [{"failed": "ValueError: no such form"}]


def test_the_fastest_setting_is_named_and_one_that_fails_is_passed_over(toy):
    slow = dataclasses.replace(toy("sleep", seconds=0.05), name="slow")
    best, tried = turns.fastest([slow, toy("fail"), toy("sleep", seconds=0.0)], EFFORT)
    assert best.name == "sleep" and set(tried) == {"slow", "fail", "sleep"}
    with pytest.raises(Failed, match="fail: ValueError: no such form; again: ValueError"):
        turns.fastest([toy("fail"), dataclasses.replace(toy("fail"), name="again")], EFFORT)


def test_memory_is_what_a_process_grows_by(toy):
    grown = turns.one_turn(toy("grow", mebibytes=64), EFFORT, memory=True)["bytes"]
    assert 60 << 20 < grown < 80 << 20


def test_a_process_that_takes_too_long_is_stopped(toy):
    with pytest.raises(Failed, match="more than 0 s"):
        turns.one_turn(toy("sleep", seconds=9), Effort(limit=0.1))


def test_a_busy_machine_is_refused_or_marked(monkeypatch):
    monkeypatch.setattr(turns, "_others", lambda before: 0.5)
    monkeypatch.setattr(turns.time, "sleep", lambda seconds: None)
    with pytest.raises(SystemExit, match=r"busy: others use 50% .* --busy"):
        turns.refuse_a_busy_machine(allowed=False)
    assert turns.refuse_a_busy_machine(allowed=True) == 0.5


def test_without_pytorch_nothing_is_timed(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(SystemExit, match="PyTorch is missing: pip install"):
        compare.validated("plain", ["fft_and_back"], ["ours", "PyTorch"])


def test_the_table_names_the_setting_the_ratio_and_a_busy_machine():
    turn = {"seconds": [0.002], "cpu": [0.002], "others": 0.0, "facts": {"first": 0.1}}
    mine = dict(turns.summary([turn]), setting="jit")
    theirs = dict(turns.summary([turn | {"seconds": [0.003], "others": 0.4}]), setting="eager")
    row = dict(name="nl", shape=(8, 7, 7, 256), work="inference")
    row |= dict(sides={"ours": mine, "PyTorch": theirs, "jaxnn": {"failed": "no such name"}})
    row["ratios"] = {"PyTorch": {"ratio": 1.5, "least": 1.4, "most": 1.6}}
    lines = list(compare.lines(row))
    assert "| eager | 3.00 (3.00 to 3.00) | 1.50 (1.40 to 1.60) |" in lines[1]
    assert lines[1].endswith("machine busy |") and not lines[0].endswith("machine busy |")
    assert "failed: no such name" in lines[2]


@pytest.mark.parametrize("suite", SUITES)
def test_every_side_of_every_case_has_settings_of_its_own(suite):
    for name, case in SUITES[suite].items():
        given = dict(
            suite=suite, name=name, shape=case.quick[0], work=case.works[0], precision="float32"
        )
        found = sides.contestants(given, compiled=True)
        assert len({c.name for c in found["PyTorch"]}) == 8 and len(found["ours"]) == 1
