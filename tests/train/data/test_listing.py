"""Which files are found below a folder or in a list, and what their labels are."""

import os

import numpy as np
import pytest

from train.data.label_list import numbered, read_list
from train.data.listing import IMAGES, class_folders, list_file
from train.errors import UserError


def put(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"")
    return root


def listed(root, split="train"):
    found = class_folders(root, split, IMAGES)
    names = [os.path.relpath(found.name(i), found.folder) for i in range(len(found))]
    return dict(zip(names, found.labels.tolist(), strict=True)), found.num_classes


# Links


@pytest.fixture
def two(tmp_path):
    """Classes a and b with a file each."""
    return put(tmp_path, "train/a/1.jpg", "train/b/1.jpg")


@pytest.mark.parametrize("target", ["..", "../..", "../../..", ".", "/", "../a", "loop"])
@pytest.mark.parametrize("place", ["a/loop", "a/x/loop", "loop"])
def test_a_link_that_leads_round_brings_no_files(two, place, target):
    link = two / "train" / place
    link.parent.mkdir(exist_ok=True)
    inside = link.parent / target
    circle = place != "loop" or target not in ("../a", "loop")
    if target == "../a" and place != "a/loop":
        target = os.path.relpath(two / "train" / "a", link.parent)
        circle = place != "loop"
    link.symlink_to(inside if target == "/" else target)
    files, classes = listed(two)
    if circle or target == "loop":
        assert (files, classes) == ({"a/1.jpg": 0, "b/1.jpg": 1}, 2)
    else:  # another name for a class is a class
        assert (files, classes) == ({"a/1.jpg": 0, "b/1.jpg": 1, "loop/1.jpg": 2}, 3)


def test_links_in_both_classes_that_lead_round_do_not_keep_the_listing_going(two):
    for name in ("a", "b"):
        for i in range(3):
            (two / "train" / name / f"up{i}").symlink_to("..")
            (two / "train" / name / f"top{i}").symlink_to(two)
    assert listed(two) == ({"a/1.jpg": 0, "b/1.jpg": 1}, 2)


def test_links_to_folders_elsewhere_are_followed(two, tmp_path):
    put(tmp_path, "pool/cats/1.jpg", "pool/more/deep/2.jpg")
    (two / "train" / "cat").symlink_to("../pool/cats")
    (two / "train" / "a" / "more").symlink_to(tmp_path / "pool" / "more")
    files, classes = listed(two)
    assert classes == 3
    wanted = {"a/1.jpg": 0, "a/more/deep/2.jpg": 0, "b/1.jpg": 1, "cat/1.jpg": 2}
    assert files == wanted


def test_a_folder_that_a_class_reaches_twice_is_taken_once_by_its_own_name(two, tmp_path):
    put(tmp_path, "train/a/z/2.jpg", "pool/3.jpg")
    (two / "train" / "a" / "b").symlink_to("z")
    for name in ("c", "d"):
        (two / "train" / "a" / name).symlink_to(tmp_path / "pool")
    (two / "train" / "b" / "c").symlink_to(tmp_path / "pool")  # another class may have it too
    (tmp_path / "pool" / "again").symlink_to(tmp_path / "pool")
    files, _ = listed(two)
    assert sorted(files.values()) == [0, 0, 0, 1, 1]
    assert "a/z/2.jpg" in files and "b/c/3.jpg" in files


def test_pipes_are_no_examples_and_links_to_nothing_are(two):
    os.mkfifo(two / "train" / "a" / "pipe.jpg")
    (two / "train" / "a" / "gone.jpg").symlink_to("nowhere.jpg")  # named when it is read
    (two / "train" / "a" / "gone").symlink_to("nowhere")
    assert listed(two)[0] == {"a/1.jpg": 0, "a/gone.jpg": 0, "b/1.jpg": 1}


# What is no class


LEFT_BEHIND = (
    *(".ipynb_checkpoints", ".git", ".cache", "__MACOSX", "@eaDir", "lost+found", ".Trash-1000"),
    *("$RECYCLE.BIN", "System Volume Information", "#recycle", "@Recycle", "__pycache__"),
)


@pytest.mark.parametrize("name", LEFT_BEHIND)
def test_folders_left_behind_by_programs_are_no_classes_and_hold_no_examples(two, name):
    put(two, f"train/{name}/1.jpg", f"train/a/{name}/1.jpg", f"val/{name}/1.jpg", "val/b/9.jpg")
    assert listed(two) == ({"a/1.jpg": 0, "b/1.jpg": 1}, 2)
    assert listed(two, "test") == ({"b/9.jpg": 1}, 2)


def test_files_left_behind_by_programs_are_no_examples(two):
    put(two, "train/a/._1.jpg", "train/a/.DS_Store", "train/Thumbs.db", "train/.DS_Store")
    assert listed(two) == ({"a/1.jpg": 0, "b/1.jpg": 1}, 2)


@pytest.mark.parametrize("suffix", ["JPEG", "png"])
def test_a_folder_of_files_without_classes_says_how_to_go_on(two, suffix):
    put(two, *(f"val/ILSVRC2012_val_{i:08}.{suffix}" for i in range(3)))
    with pytest.raises(UserError) as error:
        listed(two, "test")
    for part in ("3 file(s) of no class", f"_val_00000000.{suffix}", "image_list", "val/CLASS/"):
        assert part in str(error.value)


def test_a_folder_that_may_not_be_read_is_an_error(two, monkeypatch):
    scan = os.scandir

    def guarded(folder):
        if str(folder).endswith("a"):
            raise PermissionError(13, "Permission denied")
        return scan(folder)

    monkeypatch.setattr(os, "scandir", guarded)
    with pytest.raises(UserError, match=r"cannot list '.*/a': Permission denied"):
        listed(two)


# Lists


def lists(root, train, val=None, suffix=".csv"):
    put(root, "1.jpg", "2.jpg", "3.jpg", "4.jpg", "ä b.jpg")
    for name, content in (("train", train), ("val", train if val is None else val)):
        content = content if isinstance(content, bytes) else content.encode()
        (root / f"{name}{suffix}").write_bytes(content)
    return root


def of_list(root, split="train", **options):
    found = list_file(root, split, **options)
    names = [os.path.relpath(found.name(i), found.folder) for i in range(len(found))]
    return list(zip(names, found.labels.tolist(), strict=True)), found.num_classes


def csv(*labels, end="\n"):
    return end.join(["path,label", *(f"{i + 1}.jpg,{label}" for i, label in enumerate(labels)), ""])


@pytest.mark.parametrize(
    ("labels", "numbers", "count"),
    [
        (("0.0", "1.0", "2.0", "10.0"), [0, 1, 2, 10], 11),
        (("0", "1.0", "2.", "1e1"), [0, 1, 2, 10], 11),
        (("00", "01", "+2", "10"), [0, 1, 2, 10], 11),
        (("0.5", "10.5", "2.5", "-1"), [1, 3, 2, 0], 4),
        (("cat", "10", "9", "dog"), [2, 0, 1, 3], 4),
        (("nan", "inf", "1_0", "²"), [2, 1, 0, 3], 4),
        ((" cat", "cat ", "dog", "cat"), [0, 0, 1, 0], 2),
        ((" 1", "0 ", "1", "\t2"), [1, 0, 1, 2], 3),
    ],
)
def test_labels_are_the_numbers_they_say_or_names_in_order(tmp_path, labels, numbers, count):
    found, classes = of_list(lists(tmp_path, csv(*labels)))
    assert ([label for _, label in found], classes) == (numbers, count)


def test_labels_made_one_by_their_spaces_are_told_once(tmp_path, capsys):
    lists(tmp_path, csv(" cat", "cat ", "dog", "dog"))
    of_list(tmp_path)
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "' cat', 'cat ' are one label, 'cat'" in said
    of_list(lists(tmp_path, csv(" cat", "cat "), csv("cat")), "test")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("label", ["-1", "-1.0", "3", "1.5", "cat", "²"])
def test_a_label_that_is_no_number_of_a_class_is_refused(tmp_path, label):
    lists(tmp_path, csv("0", "1", "2"), csv("0", label))
    with pytest.raises(UserError, match=f"labels outside 0 ... 2: {label}"):
        of_list(tmp_path, "test")


def test_numbers_beyond_any_count_of_classes_are_refused(tmp_path):
    for label in ("2119789", "9" * 30):
        with pytest.raises(UserError, match="below 1000000, or names"):
            of_list(lists(tmp_path, csv("0", label)))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("suffix", [".csv", ".txt"])
def test_neither_ends_of_lines_nor_marks_of_encodings_matter(tmp_path, end, encoding, suffix):
    lines = ["1.jpg cät", "ä b.jpg dog", "", "2.jpg cät"]
    if suffix == ".csv":
        lines = ["path, label", "1.jpg,cät", '"ä b.jpg",dog', "", "2.jpg,cät "]
    lists(tmp_path, (end.join(lines) + end).encode(encoding), suffix=suffix)
    assert of_list(tmp_path) == ([("1.jpg", 0), ("ä b.jpg", 1), ("2.jpg", 0)], 2)


def test_a_line_ends_at_ends_of_lines_alone(tmp_path):
    put(tmp_path, "a\x85b.jpg", "c\u2028d.jpg")
    lists(tmp_path, "a\x85b.jpg x\nc\u2028d.jpg y\n", suffix=".txt")
    assert of_list(tmp_path) == ([("a\x85b.jpg", 0), ("c\u2028d.jpg", 1)], 2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("path,label\n1.jpg,cat\n2.jpg,caf\xe9\n".encode("latin-1"), "line 3: the byte 0xe9"),
        ("path,label\r1.jpg,caf\xe9\r".encode("latin-1"), "line 2: the byte 0xe9"),
        (csv("cat").encode("utf-16-le"), "line 1: a character of value 0"),
        (csv("cat").encode("utf-16")[:-1], "line 2: the byte 0x0a is not text in UTF-16"),
        (b"path,label\n1.jpg,a\n2.jpg,\0\n", "line 3: a character of value 0"),
        (b"path,label\n1.jpg\n", "line 2, entry 1: expected a path and a label"),
        (b"path,label\n\n1.jpg,a\n , a\n", "line 4, entry 2: expected a path and a label"),
        (b"path,label\n1.jpg," + b"a" * 200_000, "line 2: field larger"),
        (b"path;label\n1.jpg;a\n", "no column label nor path; its first line is 'path;label'"),
        (b"x" * 50_000 + b"\n", "no column label nor path"),
        (b"path,label\n" + b"b" * 50_000 + b",1\n", "1 missing"),
    ],
)
def test_what_is_no_list_is_refused_in_one_short_line(tmp_path, content, message):
    lists(tmp_path, content)
    with pytest.raises(UserError, match=message) as error:
        of_list(tmp_path)
    assert "train.csv" in str(error.value)
    assert str(error.value).isprintable() and len(str(error.value)) < 600


def test_names_in_messages_are_escaped(tmp_path):
    lists(tmp_path, csv("a"), csv("\x1b[31mred\n"[:-1]))
    with pytest.raises(UserError, match=r"lacks: \\x1b\[31mred") as error:
        of_list(tmp_path, "test")
    assert str(error.value).isprintable()


def test_many_lines_are_read_in_no_time_each(tmp_path):
    count = 20_000
    path = tmp_path / "train.csv"
    path.write_text("path,label\n" + "".join(f"{i}.jpg,{i}.0\n" for i in range(count)))
    paths, labels = read_list(path)
    numbers, classes = numbered(labels, labels, path, None)
    assert classes == [str(i) for i in range(count)] and len(paths) == count
    np.testing.assert_array_equal(numbers, np.arange(count))
