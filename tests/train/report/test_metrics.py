"""``metrics.jsonl`` and the other files of a report: full disks, foreign lines, taken names."""

import json
import shutil

import pytest

from spectral_flax.files import new_file
from train.errors import UserError
from train.processes.paths import local_path, set_aside
from train.report import lines
from train.report.metrics import Metrics
from train.report.report import FILES, Report

ENTRY = {"step": 2, "split": "train", "loss": 1.5}


@pytest.fixture
def said():
    return []


def opened(path, said, step=10):
    return Metrics(path, step, said.append)


FOREIGN = [
    b"a note",
    b"\xff\xfe broken",
    b"[1, 2]",
    b"null",
    b'{"step": "2", "split": "train"}',
    b'{"step": 2}',
    b'{"step": 2, "split": "train", "loss": "high"}',
    b'{"step": true, "split": "train"}',
    b"[" * 100_000,
]


@pytest.mark.parametrize("line", FOREIGN, ids=range(len(FOREIGN)))
@pytest.mark.parametrize("end", [b"\n", b""])
def test_lines_that_no_run_writes_stay_and_do_no_harm(tmp_path, said, line, end):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(json.dumps(ENTRY).encode() + b"\n" + line + end)
    found = opened(path, said)
    assert found.of("train") == [ENTRY]
    found.write(ENTRY | {"step": 4})
    lines = path.read_bytes().splitlines()
    assert line in lines and json.loads(lines[-1]) == ENTRY | {"step": 4}
    assert "1 line(s) that no run writes" in said[0]


@pytest.mark.parametrize("length", range(1, 12))
def test_a_line_that_a_kill_cut_short_is_dropped(tmp_path, said, length):
    path = tmp_path / "metrics.jsonl"
    whole = json.dumps(ENTRY).encode() + b"\n"
    path.write_bytes(whole + json.dumps(ENTRY | {"step": 4}).encode()[:length])
    opened(path, said)
    assert path.read_bytes() == whole and not said


def test_entries_past_the_step_are_dropped_whether_or_not_a_line_end_follows(tmp_path, said):
    path = tmp_path / "metrics.jsonl"
    later = json.dumps(ENTRY | {"step": 99})
    path.write_text(f"{later}\n{json.dumps(ENTRY)}\n{later}")
    assert opened(path, said).of("train") == [ENTRY]


def test_what_a_full_disk_refuses_is_written_with_the_next_entry(tmp_path, said, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    found = opened(path, said)
    found.write(ENTRY)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(lines.Path, "open", full)
        patch.setattr(lines, "new_file", full)
        for step in (4, 6):
            found.write(ENTRY | {"step": step})
    assert len(said) == 1 and "No space left on device" in said[0]
    found.write(ENTRY | {"step": 8})
    steps = [json.loads(line)["step"] for line in path.read_text().splitlines()]
    assert steps == [2, 4, 6, 8]


def test_a_full_disk_at_the_opening_leaves_the_file_as_it_was(tmp_path, said, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps(ENTRY) + "\n" + json.dumps(ENTRY | {"step": 50}) + "\n")
    before = path.read_bytes()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(lines, "new_file", full)
        found = opened(path, said)
    assert path.read_bytes() == before and said
    found.write(ENTRY | {"step": 4})
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [2, 4]


def test_a_work_directory_that_is_removed_is_said(tmp_path, said):
    (tmp_path / "run").mkdir()
    found = opened(tmp_path / "run" / "metrics.jsonl", said)
    found.write(ENTRY)
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(UserError, match="has been removed"):
        found.write(ENTRY | {"step": 4})


def test_a_file_that_cannot_be_read_is_named(tmp_path, said):
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(UserError, match="cannot read"):
        opened(tmp_path / "metrics.jsonl", said)


def report(toy, workdir, start=0):
    return Report(workdir, toy(), None, start=start, steps=5)


def test_a_run_that_begins_overwrites_nothing(toy, tmp_path):
    taken = [f"{name.partition('.')[0]}.before_2.{name.partition('.')[2]}" for name in FILES]
    for name in (*FILES, *taken):
        (tmp_path / name).write_text(f"old {name}")
    for _ in range(2):
        report(toy, tmp_path)
        for name in FILES:
            (tmp_path / name).write_text(f"new {name}")
    for name, second in zip(FILES, taken, strict=True):
        stem, _, suffix = name.partition(".")
        assert (tmp_path / f"{stem}.before_1.{suffix}").read_text() == f"old {name}"
        assert (tmp_path / second).read_text() == f"old {second}"
        assert (tmp_path / f"{stem}.before_3.{suffix}").read_text() == f"new {name}"


def test_a_run_that_goes_on_puts_nothing_aside(toy, tmp_path):
    for name in FILES:
        (tmp_path / name).write_text("")
    report(toy, tmp_path, start=3)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(FILES)


def test_a_picture_that_cannot_be_drawn_is_said_and_the_run_goes_on(toy, tmp_path, capsys):
    with report(toy, tmp_path) as shown, shown.drawing("results.png") as path, new_file(path) as d:
        d.write_text("half")
        raise OSError(28, "No space left on device")
    assert "cannot write results.png: OSError: No space left on device" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_what_is_put_aside_takes_the_first_free_name_even_of_a_dangling_link(tmp_path):
    (tmp_path / "a.before_1.txt").symlink_to("nowhere")
    (tmp_path / "a.txt").write_text("mine")
    assert set_aside(tmp_path / "a.txt").name == "a.before_2.txt"
    assert set_aside(tmp_path / "a.txt") is None


@pytest.mark.parametrize(
    "path", ["gs://b/r", "s3://b", "file:///x", "hf://a/b", "", " ", "a\0b", b"x", 3, None]
)
def test_a_path_that_is_none_is_refused_by_its_option(path):
    with pytest.raises(UserError, match=r"^--data\.path is .*; expected a "):
        local_path("--data.path", path)


def test_a_home_is_expanded_and_only_at_the_front(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert local_path("x", "~/runs") == "/home/me/runs"
    assert local_path("x", "a/~b") == "a/~b"
    with pytest.raises(UserError, match="no such user"):
        local_path("x", "~nobody-of-this-name/x")
