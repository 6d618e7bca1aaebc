"""Where in a training program's file the weights are."""

import numpy as np
import pytest

from spectral_flax.checkpoints.entries import weights_in
from spectral_flax.checkpoints.prefixes import entries_below, weights_below

A = {"conv.weight": np.ones(2), "conv.bias": np.ones(1)}
B = {"conv.weight": np.zeros(2), "conv.bias": np.zeros(1)}
KNOWN = {"conv.weight", "conv.bias", "fc.weight"}
LARGE = KNOWN | {f"layer{i}.weight" for i in range(9)}


def first(found):
    return float(found["conv.weight"][0])


@pytest.mark.parametrize(
    "root",
    [
        A,
        {"state_dict": A, "epoch": 3},
        {"epoch": np.float32(3), "model": {"state_dict": A}},
        {"anything": A, "lr": 0.1},
        {"net_g": A, "optimizer": {"state": {0: {"exp_avg": np.ones(2)}}, "param_groups": []}},
    ],
    ids=repr,
)
def test_the_only_set_of_weights_is_found(root):
    assert first(weights_in(root)) == 1


@pytest.mark.parametrize(
    ("root", "entry"),
    [
        ({"G": A, "D": B}, "G"),
        ({"state_dict": {"G": A, "D": B}}, "state_dict.G"),
        ({"state_dict": {"G": A, "D": B}}, "G"),
        ({"G": {"state_dict": A}, "D": {"state_dict": B}}, "G"),
        ({"G": {"state_dict": A}, "D": {"state_dict": B}}, "G.state_dict"),
        ({"net.G": A, "net.D": B}, "net.G"),
        ({0: A, 1: B}, "0"),
        ({f"{p}.{n}": v for p, s in (("G", A), ("D", B)) for n, v in s.items()}, "G"),
        ({"state_dict": {f"G.{n}": v for n, v in A.items()} | {"D.w": np.ones(2)}}, "G"),
        (A | {"other": B}, ""),
    ],
    ids=repr,
)
def test_one_of_several_sets_is_chosen_by_its_entry(root, entry):
    assert first(weights_in(root, entry)) == 1


@pytest.mark.parametrize(
    ("root", "entry", "told"),
    [
        ({"G": A, "D": B}, None, "several sets of weights; choose one by entry=: 'G', 'D'"),
        ({"state_dict": {"G": A, "D": B}}, None, "'state_dict.G', 'state_dict.D'"),
        ({"G": {"state_dict": A}, "D": {"state_dict": B}}, None, "entry=: 'G', 'D'"),
        ({"G": A, "D": B}, "E", "no entry 'E'; it has the entries G, D"),
        ({"G": A, "D": B}, "", "no tensors by name itself but the entries G, D"),
        ({"G": A, "epoch": 3}, "epoch", "'epoch' holds no tensors but a int"),
        ({"a": {}, "b": 3}, None, "no tensors by name; it has the entries a, b"),
        ({3: np.ones(2), "a": np.ones(1)}, None, "an entry is called 3; expected names as text"),
        ({"x" * 999: {}, "y\n": {}}, None, r"entries x{100}\.\.\., y\\n$"),
    ],
)
def test_what_there_is_to_choose_from_is_named(root, entry, told):
    with pytest.raises(ValueError, match=told):
        weights_in(root, entry)


@pytest.mark.parametrize("entry", [3, b"G", ("G",)])
def test_an_entry_is_given_as_text(entry):
    with pytest.raises(TypeError, match=r"entry=.*; expected names joined by dots"):
        weights_in({"G": A, "D": B}, entry)
    with pytest.raises(TypeError, match=r"entry=.*; expected the first part of names"):
        entries_below(A, entry)


def test_a_node_mentioned_a_million_times_is_looked_at_once():
    node = {"end": 3}
    for _ in range(8):
        node = {str(i): node for i in range(1000)}
    with pytest.raises(ValueError, match="holds no tensors by name"):
        weights_in(node)


@pytest.mark.parametrize(
    ("names", "prefix", "beside"),
    [
        ("conv.weight conv.bias fc.weight", "", ""),
        ("module.conv.weight module.conv.bias n_averaged", "module.", ""),
        ("model.conv.weight model.conv.bias queue", "model.", "queue"),
        ("model.net.conv.weight model.net.conv.bias model.loss.w", "model.net.", "model.loss.w"),
        ("backbone.conv.weight backbone.conv.bias head.fc.weight", "backbone.", ""),
        ("conv.weight conv.bias head.fc.weight", "", ""),
        ("a.conv.weight a.conv.bias b.fc.weight c.fc.weight", "a.", "b.fc.weight c.fc.weight"),
        ("a.conv.weight a.conv.bias b.fc.weight b.x", "a.", "b.fc.weight b.x"),
        ("conv.weight conv.bias ema.conv.weight ema.conv.bias", "", ""),
        ("module.x module.y", "module.", ""),
        ("x y.z", "", ""),
    ],
)
def test_the_prefix_is_that_below_which_most_names_fit(names, prefix, beside):
    found = weights_below(dict.fromkeys(names.split()), [KNOWN])
    assert (found.prefix, found.beside) == (prefix, tuple(beside.split()))
    if "fc.weight" in names and "c.fc" not in names and " b.x" not in names:
        assert found.tensors.keys() >= KNOWN


def test_two_prefixes_that_serve_as_well_are_no_choice_of_ours():
    names = ("a.ema.conv.weight", "a.model.conv.weight")
    with pytest.raises(ValueError, match=r"choose one by entry=: a\.ema, a\.model"):
        weights_below(dict.fromkeys(names), [KNOWN])


def test_a_few_known_names_in_a_large_file_are_chance():
    names = [f"other.{i}" for i in range(9)] + ["loss.conv.weight", "loss.conv.bias"]
    assert weights_below(dict.fromkeys(names), [LARGE]).tensors.keys() == set(names)


def test_names_that_fit_as_they_are_keep_their_prefix():
    known = {"g.conv.weight", "d.conv.weight"}, {"conv.weight", "d.conv.weight"}
    found = weights_below(dict.fromkeys(["g.conv.weight", "d.conv.weight", "x"]), known)
    assert found.tensors.keys() == {"g.conv.weight", "d.conv.weight", "x"}
