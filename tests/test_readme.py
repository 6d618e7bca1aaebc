from docs.model_table import ROWS, row, written


def test_the_table_of_models_is_what_they_cost():
    lines = written().splitlines(keepends=True)[2:]
    assert len(lines) == len(ROWS)
    for name, line in list(zip(ROWS, lines, strict=True))[::3]:  # one in three: each is traced
        assert line == row(name), "run python -m docs.model_table"
