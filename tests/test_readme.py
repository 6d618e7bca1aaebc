import pytest

from docs.model_table import ROWS, row, written

LINES = written().splitlines(keepends=True)[2:]


def test_the_table_of_models_has_a_line_for_each():
    assert [line.split("`")[1] for line in LINES] == ROWS


SOME = ("resnet18", "ffc_resnet50", "resnet50_bat", "tsm_resnet50", "pose_resnet50_srl_fft")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in SOME else pytest.mark.full) for n in ROWS]
)
def test_a_line_of_the_table_is_what_the_model_costs(name):
    assert row(name) in LINES, "run python -m docs.model_table"
