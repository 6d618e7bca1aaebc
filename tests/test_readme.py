from docs.model_table import table, written


def test_the_table_of_models_is_what_they_cost():
    assert written() == table(), "run python -m docs.model_table"
