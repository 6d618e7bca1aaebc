"""Parts of a user's own: the guide's, in a folder that is not the checkout, and what is refused."""

import functools
import json
import os
import pathlib
import re
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import spectral_flax as sf
from spectral_flax.functional.pairs import Cosine, TransformPair
from spectral_flax.layers.blocks import BLOCKS
from spectral_flax.models.registry import MODELS
from spectral_flax.plugins import import_plugins
from train.command.checks import check
from train.command.line import load
from train.config import Config, from_text, to_text
from train.errors import UserError
from train.task import TaskEntry
from train.tasks import TASKS, register_data_set, register_metric, register_task

ROOT = pathlib.Path(__file__).parents[1]
GUIDE = (ROOT / "docs/guides/extending.md").read_text()
SMALL = dict(width=8, depths=(1, 1, 1), num_classes=4)
# As the command spectral-flax does, Python does not look into the current folder.
COMMAND = [sys.executable, "-P", "-c"]

TRAINED = """
from spectral_flax.cli import main
assert main(["profile", "small", "--plugins", "parts.py", "--json"]) == 0
assert main(["train", "config.py", "--workdir", "run"]) == 0
assert main(["train", "config.py", "--workdir", "run", "--steps", "3"]) == 0
import parts
"""
EVALUATED = """
import sys
from spectral_flax.cli import main
assert main(["evaluate", "--workdir", sys.argv[1], "--output", "found"]) == 0
"""


def blocks_of_the_guide() -> tuple[dict[str, str], list[str]]:
    """The files that the guide shows, and its other pieces of Python."""
    files, pieces = {}, []
    for text in re.findall(r"^```python\n(.*?)^```", GUIDE, re.M | re.S):
        if name := re.match(r"# (\w+\.py)", text):
            files[name[1]] = files.get(name[1], "") + text
        else:
            pieces.append(text)
    return files, pieces


def run(folder: pathlib.Path, program: str, *arguments: str) -> str:
    done = subprocess.run(
        [*COMMAND, program, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_guide_trains_resumes_and_evaluates_in_a_folder_of_its_own(tmp_path):
    files, pieces = blocks_of_the_guide()
    here, elsewhere = tmp_path / "mine", tmp_path / "elsewhere"
    here.mkdir()
    elsewhere.mkdir()
    for name, text in files.items():
        (here / name).write_text(text)
    (here / "train.py").write_text("raise SystemExit('the wrong train')")
    said = run(here, TRAINED + "import spectral_flax as sf\n" + "".join(pieces))
    assert '"parameters": ' in said and "going on from step 2" in said and "brier" in said
    assert "Option(type='int', default=16, meaning='features of the convolution.')" in said
    run(elsewhere, EVALUATED, str(here / "run"))
    lines = [json.loads(line) for line in (here / "run/metrics.jsonl").read_text().splitlines()]
    figures = json.loads((elsewhere / "found/figures.json").read_text())["figures"]
    assert figures["brier"] == pytest.approx(lines[-1]["brier"], rel=1e-5)


def own(features, *, rank, rngs, size):
    """A block of one's own."""
    assert len(size) == 2
    return sf.layers.SpectralResidual(features, pair=Cosine(), rank=rank, rngs=rngs)


@pytest.mark.parametrize("name", ["resnet18", "pose_resnet18", "unet", "c2d_resnet18"])
def test_any_network_takes_a_function_as_its_block(name):
    width = {"encoder_width": 8} if "pose" in name else {"width": 8}
    model = sf.abstract_model(name, block=own, **width)
    assert any(isinstance(m, sf.layers.SpectralResidual) for _, m in nnx.iter_modules(model))


def test_a_partial_layer_is_a_block_with_the_options_that_it_leaves_open(tmp_path):
    block = functools.partial(sf.layers.SpectralResidual, pair=Cosine())
    options = dict(block=block, block_options={"groups": 2}, **SMALL, dtype=jnp.bfloat16)
    model = sf.create_model("resnet18", **options)
    assert model.stages[1][-1].groups == 2 and model(jnp.ones((1, 16, 16, 3))).shape == (1, 4)
    with pytest.raises(TypeError, match=r"block=.* can not be written to a file"):
        sf.save(model, tmp_path / "a.safetensors", name="resnet18", options=options)


def test_a_registered_block_is_saved_by_its_name(tmp_path, monkeypatch):
    monkeypatch.setitem(BLOCKS, "own", None)
    del BLOCKS["own"]
    sf.register_block(ranks=(2,))(own)
    assert BLOCKS["own"].title == "A block of one's own"
    options = dict(block="own", **SMALL)
    model, path = sf.create_model("resnet18", **options), tmp_path / "a.safetensors"
    sf.save(model, path, name="resnet18", options=options)
    loaded, x = sf.load(path), jnp.ones((1, 16, 16, 3))
    assert isinstance(loaded.stages[1][-1], sf.layers.SpectralResidual)
    np.testing.assert_array_equal(*(sf.evaluation_mode(m)(x) for m in (model, loaded)))
    with pytest.raises(ValueError, match="rank=3; own is for images only"):
        sf.abstract_model("c2d_resnet18", block="own")
    with pytest.raises(ValueError, match="'own' is registered already"):
        sf.register_block()(own)


def broken(**changes):
    pair = dict(forward=lambda x: x, inverse=lambda s, sizes: s) | changes
    return functools.partial(sf.layers.SpectralResidual, pair=TransformPair(**pair))


@pytest.mark.parametrize(
    ("block", "error", "message"),
    [
        (3, TypeError, "block=3; expected a name, or a function"),
        ("nll", ValueError, "no block 'nll'; closest: nl"),
        (lambda x: x, TypeError, "no parameter features, rank, rngs"),
        (lambda features, *, rank, rngs: None, TypeError, "built a NoneType; expected an nnx.Mod"),
        (functools.partial(sf.layers.SpectralResidual, pair=1), TypeError, "pair=1 has no forward"),
        (broken(multiplier=2), ValueError, r"gives \d+ channels; expected \d+, that is 2 times"),
        (broken(inverse=lambda s, sizes: s[:, :1]), ValueError, "pair.inverse gives .*; expected"),
    ],
)
def test_what_is_no_block_or_pair_is_refused(block, error, message):
    with pytest.raises(error, match=message):
        sf.create_model("resnet18", block=block, **SMALL)(jnp.ones((1, 16, 16, 3)))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: sf.register_block("nl")(own), ValueError, "'nl' is registered already"),
        (lambda: sf.register_block(own), ValueError, "expected an identifier"),
        (lambda: sf.register_block(rank=2), TypeError, "no argument 'rank'; closest: ranks"),
        (lambda: sf.register_model("a"), TypeError, "card='a'; expected a Card"),
        (lambda: sf.register_model(tasks=""), TypeError, "no argument 'tasks'; closest: task"),
        (lambda: sf.register_model(name="a b")(own), ValueError, "name='a b'; expected letters"),
        (lambda: sf.register_model()(lambda: None), ValueError, "name='<lambda>'"),
        (lambda: sf.register_model(name="a")(lambda: None), TypeError, "'a' has no parameter rngs"),
        (lambda: sf.register_model(name="a")(lambda *, rngs, **o: None), TypeError, r"takes \*\*o"),
        (lambda: register_task("pose", TASKS["pose"]), ValueError, "task named 'pose' is regis"),
        (lambda: register_task("mine", None), TypeError, "entry=None; expected a TaskEntry"),
        (lambda: register_data_set("mnist5k"), ValueError, "data set named 'mnist5k' is regis"),
        (lambda: register_metric("loss", "min"), ValueError, "metric named 'loss' is registered"),
        (lambda: register_metric("cost", "low"), ValueError, "best='low'; expected 'max' or 'min'"),
        (lambda: register_data_set("a", task="poses"), ValueError, "task='poses'; closest: pose"),
    ],
)
def test_what_cannot_be_registered_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_data_set_of_one_s_own_has_to_be_a_source(monkeypatch):
    for task in ("classification", "segmentation", "inpainting", "pose"):
        monkeypatch.setitem(TASKS[task].data, "letters", None)
        del TASKS[task].data["letters"]
        register_data_set("letters", task=task)(lambda split, data: [split])
        with pytest.raises(UserError, match="'letters' opens a list; expected a class that inher"):
            TASKS[task].data["letters"]("train", None, None)
        del TASKS[task].data["letters"]
    assert isinstance(TASKS["pose"], TaskEntry)


@pytest.mark.parametrize("name", sorted({model.function for model in MODELS.values()}, key=repr))
def test_every_option_of_every_model_has_a_type_and_a_meaning(name):
    first = next(n for n, model in MODELS.items() if model.function is name)
    options = sf.model_options(first)
    assert options and {o for o, about in options.items() if not about.type} == set()
    assert {o for o, about in options.items() if not about.meaning} == set()


def test_a_plugin_is_imported_once_and_hides_no_module(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "own_parts_of_a_test.py").write_text("import own_neighbour\n")
    (tmp_path / "own_neighbour.py").write_text("seen = []\n")
    (tmp_path / "json.py").write_text("1 / 0\n")
    for _ in range(2):
        import_plugins([str(tmp_path / "own_parts_of_a_test.py")])
    assert sys.modules["own_neighbour"].seen == [] and sys.path[-1] == str(tmp_path)
    with pytest.raises(ImportError, match=r"json.py' has the name of another module \(.*rename"):
        import_plugins([str(tmp_path / "json.py")])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("gone.py", None, r"the plugin '.*gone\.py' is not there; --plugins FILE.py"),
        ("no_such_module", None, "the plugin 'no_such_module' is not there: expected a file"),
        ("half_done.py", "\n1 / 0", r"ZeroDivisionError: .*half_done.py, line 2\); --plugins"),
        ("half-done.py", "", "cannot be imported; expected NAME.py"),
    ],
)
def test_a_plugin_that_cannot_be_imported_is_one_line(tmp_path, monkeypatch, name, text, message):
    monkeypatch.setattr(sys, "path", list(sys.path))
    if text is not None:
        (tmp_path / name).write_text(text)
    (tmp_path / "config.py").write_text(
        f"from train.config import Config\nconfig = Config(plugins=({name!r},))"
    )
    config = load(tmp_path / "config.py")
    assert from_text(to_text(config)).plugins == config.plugins
    with pytest.raises(UserError, match=message) as caught:
        check(config)
    assert "\n" not in str(caught.value)


def test_configs_stored_without_plugins_have_none():
    text = to_text(Config()).replace("'plugins': (), ", "")
    assert "plugins" not in text and from_text(text) == Config()


def test_a_module_that_hides_the_training_is_named(tmp_path):
    (tmp_path / "train.py").write_text("raise SystemExit('the wrong train')")
    program = [sys.executable, "-m", "spectral_flax", "train", "config.py"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(program, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and f"{tmp_path / 'train.py'} hides it" in done.stderr
