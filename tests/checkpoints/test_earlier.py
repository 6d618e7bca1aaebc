"""Names of earlier files, and parts of networks with blocks at other places."""

from spectral_flax.checkpoints.earlier import current_names
from spectral_flax.checkpoints.parts import inserted_in, without_inserted


def test_positions_shift_by_the_inserted_blocks_before_them():
    names = {
        "stage2.0.conv1.kernel": "stage2.0.conv1.kernel",
        "inserted.stage2_0.gate": "stage2.1.gate",
        "stage2.1.conv1.kernel": "stage2.2.conv1.kernel",
        "stage2.2.conv1.kernel": "stage2.3.conv1.kernel",
        "inserted.stage2_2.gate": "stage2.4.gate",
        "stage2.10.conv1.kernel": "stage2.12.conv1.kernel",
        "stage3.1.conv1.kernel": "stage3.1.conv1.kernel",
        "head.kernel": "head.kernel",
    }
    assert current_names(names) == names


def test_what_stands_before_a_stage_stays():
    names = ["state.0.trace.inserted.stage2_0.gate", "encoder.stage2.1.conv1.kernel"]
    assert list(current_names(names).values()) == [
        "state.0.trace.stage2.1.gate",
        "encoder.stage2.2.conv1.kernel",
    ]


def test_names_of_today_stay():
    names = ["stage2.0.conv1.kernel", "stage2.1.gate", "stage2.2.conv1.kernel", "blocks.0.gate"]
    assert current_names(names) == {name: name for name in names}


def test_no_two_names_become_one():
    names = [f"inserted.stage1_{i}.gate" for i in (0, 2, "00", "x")]
    names += [f"{before}stage1.{i}.conv1.kernel" for before in ("", "a.") for i in range(4)]
    assert len(set(current_names(names).values())) == len(names)


def test_inserted_blocks_are_told_from_residual_ones():
    arrays = {"stage1.0.conv1.k": 0, "stage1.1.gate": 1, "stage1.2.conv1.k": 2, "stage1.2.se.k": 3}
    assert inserted_in(arrays) == ["stage1.1"]
    assert without_inserted(arrays) == {
        "stage1.0.conv1.k": 0,
        "stage1.1.conv1.k": 2,
        "stage1.1.se.k": 3,
    }
