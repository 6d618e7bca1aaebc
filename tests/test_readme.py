import pytest

from docs.tables import README_MODELS, WRITTEN, cost_row, model_row, shown_models, split, zoo_row
from spectral_flax.layers.blocks import PUBLISHED

AGAIN = "run python -m docs.tables"
TABLES = {
    ("README.md", "models"): (README_MODELS, model_row, ["resnet18", "resnet50_bat"]),
    ("docs/models.md", "families"): (shown_models(), zoo_row, ["ffc_resnet50", "tsm_resnet50"]),
    ("docs/operators.md", "costs"): (list(PUBLISHED), cost_row, ["srl_fft", "gfnet"]),
}
QUICK = [(table, name) for table, (_, _, names) in TABLES.items() for name in names]
ALL = [(table, name) for table, (names, _, _) in TABLES.items() for name in names]


def rows(table: tuple[str, str]) -> list[str]:
    return [line for line in split(*table)[1].splitlines() if line.startswith("| `")]


@pytest.mark.parametrize("table", TABLES)
def test_a_table_has_a_line_for_each(table):
    names = [line.split("`")[1] for line in rows(table)]
    assert sorted(names) == sorted(TABLES[table][0]), AGAIN


@pytest.mark.parametrize(
    ("table", "name"), [pytest.param(*c, marks=() if c in QUICK else pytest.mark.full) for c in ALL]
)
def test_a_line_is_what_the_code_says(table, name):
    assert f"| {TABLES[table][1](name)} |" in rows(table), AGAIN


def test_the_table_of_public_files_is_theirs():
    table = "docs/weights.md", "files"
    assert split(*table)[1] == WRITTEN[table](), AGAIN
