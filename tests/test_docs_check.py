import pytest

check = pytest.importorskip("docs.check", reason="the extra docs")

SITE = {
    "index.html": '<h1 id="top">a</h1><a href="#top">b</a><a href="a/">c</a><a href="a/#x">d</a>',
    "a/index.html": '<p id="x"></p><a href="../">e</a><a href="https://example.org/none">f</a>',
}


def faults(tmp_path, page: str) -> list[str]:
    for name, text in (SITE | {"b.html": page}).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return check.broken_links(tmp_path)


@pytest.mark.parametrize(
    ("page", "fault"),
    [
        ('<a href="index.html">whole</a>', None),
        ('<a href="c/">no page</a>', "b.html links to c/"),
        ('<a href="a/#y">no anchor</a>', "b.html links to a/#y"),
        ('<img src="no.png">', "b.html links to no.png"),
        ('<script src="https://example.org/a.js"></script>', "b.html loads https://example.org"),
    ],
)
def test_a_link_to_nowhere_and_a_part_from_afar_are_found(tmp_path, page, fault):
    found = faults(tmp_path, page)
    assert found == [] if fault is None else found[0].startswith(fault)


def test_a_name_without_a_word_is_found(tmp_path, monkeypatch):
    (tmp_path / "objects.inv").write_bytes(b"1\n2\n3\n4\n" + check.zlib.compress(b"a.listed x\n"))

    class Name:
        is_module = False

        def __init__(self, documented: bool):
            self.has_docstring = documented

    names = {"a.listed": Name(True), "a.silent": Name(False), "a.absent": Name(True)}
    monkeypatch.setattr(check, "public_names", lambda: names)
    assert check.undocumented(tmp_path) == [
        "a.silent has no docstring",
        "a.absent is not in the reference",
    ]
