"""Lines in parts, as a bucket keeps them, are those of a file."""

import numpy as np

from train.report import lines


def test_parts_hold_the_lines_of_a_file_in_bounded_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "PART", 50)
    rng = np.random.default_rng(0)
    file, parts = lines.File(tmp_path / "file"), lines.Parts(tmp_path / "parts")
    (tmp_path / "parts").mkdir()
    for step in range(60):
        line = b"x" * int(rng.integers(1, 20)) + b"\n"
        if step % 20 == 19:  # a run that goes on, from fewer lines or more
            kept = file.read().splitlines(keepends=True)[: rng.integers(60)]
            file.rewrite(kept)
            parts.rewrite(kept)
            parts = lines.Parts(tmp_path / "parts")
            assert parts.read() == file.read()
        file.append(line)
        parts.append(line)
        assert lines.Parts(tmp_path / "parts").read() == file.read()
    assert all(path.stat().st_size < 50 + 20 for path in (tmp_path / "parts").iterdir())


def test_a_copy_of_parts_on_a_disk_is_read_as_such(tmp_path):
    (tmp_path / "metrics.jsonl").mkdir()
    lines.Parts(tmp_path / "metrics.jsonl").append(b"a\n")
    assert lines.lines_at(tmp_path / "metrics.jsonl").read() == b"a\n"
