import dataclasses
import inspect
import re

import pytest

from train import config as configs
from train.__main__ import main
from train.command.checks import check
from train.command.line import load, parse
from train.config import Config, Data, Optimizer, differences, from_text, to_text
from train.errors import UserError

GROUPS = [Config, Data, Optimizer, configs.Schedule, configs.Mesh]
MNIST = "configs/mnist5k.py"


@pytest.mark.parametrize("group", GROUPS, ids=lambda g: g.__name__)
def test_every_field_is_documented(group):
    source = inspect.getsource(group)
    for field in dataclasses.fields(group):
        assert re.search(rf'\n    {field.name}: .*\n    """\S', source), field.name


@pytest.mark.parametrize("group", GROUPS, ids=lambda g: g.__name__)
def test_an_unknown_field_is_a_type_error(group):
    with pytest.raises(TypeError, match="batchsize"):
        group(batchsize=3)


def test_help_explains_every_field(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as end:
        parse([MNIST, "--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    for group in GROUPS[1:]:
        for field in dataclasses.fields(group):
            option = f"{group.__name__.lower()}.{field.name.replace('_', '-')} "
            assert (option in shown) is (field.default_factory is not dict)  # of config files only
    for name in ("--model", "--steps", "--batch-size", "--workdir", "--options.NAME VALUE"):
        assert name in shown


def test_the_command_line_overrides_the_file():
    words = "--model resnet18 --steps 200 --batch-size 32 --optimizer.clip-norm 1 --workdir d"
    config = parse([MNIST, *words.split(), "--schedule.drop-at", "0.5", "0.75"])
    assert (config.model, config.steps, config.batch_size) == ("resnet18", 200, 32)
    assert (config.optimizer.clip_norm, config.schedule.drop_at) == (1.0, (0.5, 0.75))
    assert config.workdir == "d"
    assert config.optimizer.weight_decay == load(MNIST).optimizer.weight_decay


def test_model_options_are_python_literals_or_words():
    words = "--options.depths (1,1,2,1) --options.stem=small --options.lfu False --options.a-b .5"
    options = parse([MNIST, *words.split()]).options
    assert options["depths"] == (1, 1, 2, 1)
    assert (options["stem"], options["lfu"], options["a_b"]) == ("small", False, 0.5)


def test_the_workdir_is_named_after_the_config():
    assert parse([MNIST]).workdir == "runs/mnist5k"


def test_a_typo_on_the_command_line_names_its_neighbour(capsys):
    with pytest.raises(SystemExit) as end:
        parse([MNIST, "--batch-szie", "3"])
    assert end.value.code == 2
    assert re.search("Perhaps you meant.*--batch-size", capsys.readouterr().err, re.DOTALL)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "first argument is the config"),
        (["--steps", "3", MNIST], "first argument is the config"),
        (["configs/mnst5k.py"], r"no config 'configs/mnst5k.py'; closest: configs/mnist5k.py"),
        ([MNIST, "--options.width"], "lacks its value"),
        ([MNIST, "--batch-size", "0"], "batch-size is 0; expected at least 1"),
        ([MNIST, "--steps", "-1"], "steps is -1; expected at least 1"),
        ([MNIST, "--optimizer.learning-rate", "-0.1"], "learning-rate is -0.1; expected positive"),
        ([MNIST, "--schedule.warmup", "2"], r"warmup is 2.0; expected in \[0, 1\)"),
    ],
)
def test_a_wrong_command_line_is_refused(words, message):
    with pytest.raises(UserError, match=message):
        parse(words)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("config = Config(", "SyntaxError"),
        ("from train.config import Config\nconfig = Config(stepz=3)", "stepz"),
        ("x = 1", "defines nothing"),
        ("config = 3", "defines int"),
        ("1 / 0", "line 1(.|\n)*ZeroDivisionError"),
        ("import sys; sys.exit(3)", r"ends the program: exit\(3\)"),
        ("raise SystemExit", r"ends the program: exit\(None\)"),
        ("raise GeneratorExit('x')", "GeneratorExit"),
        ("raise ValueError('\\x1b[31m' + 'a' * 9999)", r"ValueError: \\x1b\[31ma+\.\.\.$"),
        ("variants = 5", "int as variants; expected a dictionary"),
        ("variants = None", "NoneType as variants"),
        ("variants = {3: 4}", "defines nothing"),
        ("from train.config import Config\nconfig = Config", "defines type"),
        (
            "from train.config import Config\nconfig = Config(data=None)",
            r"--data is None; .*Data\(",
        ),
        ("from train.config import Config\nconfig = Config(batch_size='x')", "--batch-size is 'x'"),
        ("x = '\0'", "cannot read"),
    ],
)
def test_a_config_that_does_not_parse_says_where(tmp_path, text, message):
    path = tmp_path / "bad.py"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as error:
        load(path)
    assert str(path) in str(error.value)


def test_what_a_config_prints_does_no_harm(tmp_path, capsys):
    path = tmp_path / "loud.py"
    path.write_text("from train.config import Config\nprint('hello')\nconfig = Config()")
    assert load(path) == Config()
    assert capsys.readouterr().out == "hello\n"


@pytest.mark.parametrize(
    "word", ["", "gs://b/c.py", "a\0b.py", "folder", "folder:x", "~none-such/x"]
)
def test_a_config_that_is_no_file_is_refused_on_one_line(tmp_path, monkeypatch, word):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError) as error:
        load(word)
    assert len(str(error.value).splitlines()) == 1 and str(error.value).isprintable()


def test_ctrl_c_while_a_config_is_read_ends_without_a_traceback(tmp_path, capsys):
    path = tmp_path / "slow.py"
    path.write_text("raise KeyboardInterrupt")
    assert main([str(path)]) == 130
    assert capsys.readouterr().err.startswith("Ctrl-C")


WRONG = [
    (Config(batch_size="x"), "--batch-size is 'x'; expected a whole number"),
    (Config(batch_size=True), "--batch-size is True; expected a whole number"),
    (Config(batch_size=2.5), "--batch-size is 2.5"),
    (Config(epochs=float("nan")), "--epochs is nan; expected a finite number"),
    (Config(epochs=float("inf")), "--epochs is inf"),
    (Config(data=None), r"--data is None; expected Data\(...\)"),
    (Config(data={"name": "mnist5k"}), "--data is {'name': 'mnist5k'}"),
    (Config(optimizer=Data()), r"--optimizer is Data\(.*; expected Optimizer"),
    (
        Config(data=Data(size=32)),
        "--data.size is 32; expected a tuple, 2 of a whole number or None",
    ),
    (Config(data=Data(size=(32, "a"))), "--data.size"),
    (Config(data=Data(size=(1, 2, 3))), "--data.size"),
    (Config(data=Data(views="all")), "--data.views is 'all'; expected one of single, ten_crops"),
    (Config(options=None), "--options is None; expected a dictionary"),
    (Config(options={1: 2}), "--options is {1: 2}"),
    (Config(optimizer=Optimizer(factors={"head": "x"})), "--optimizer.factors"),
    (Config(workdir=3), "--workdir is 3; expected text or None"),
    (Config(workdir="s3://b/r"), "--workdir is 's3://b/r'; expected a local path or gs://"),
    (Config(workdir=""), "--workdir is ''; expected a path"),
    (Config(data=Data(path="s3://b")), "--data.path is 's3://b'"),
    (
        Config(task="pose", task_options={"boxes": "a\0b"}),
        "--task-options.boxes is 'a.*null character",
    ),
    (
        Config(pretrained=configs.Pretrained(weights="https://x/y.pth")),
        "--pretrained.weights is 'https://x/y.pth'",
    ),
    (Config(steps=2**40), "--steps is 1099511627776; expected below"),
    (Config(model="m" * 999, steps=0), "--steps is 0"),
]


@pytest.mark.parametrize(("config", "message"), WRONG, ids=range(len(WRONG)))
def test_values_of_a_wrong_type_or_place_are_named_with_what_was_expected(config, message):
    with pytest.raises(UserError, match=message):
        check(config)


def test_lists_are_taken_for_tuples_and_homes_are_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    data, options = Data(size=[32, 48], path="~/data"), {"boxes": "~/b.json"}
    pretrained = configs.Pretrained(weights="~/w.pth")
    found = check(
        Config(
            task="pose", task_options=options, data=data, workdir="~/runs", pretrained=pretrained
        )
    )
    assert found.data.size == (32, 48)
    paths = found.data.path, found.task_options["boxes"]
    assert paths == ("/home/me/data", "/home/me/b.json")
    assert (found.workdir, found.pretrained.weights) == ("/home/me/runs", "/home/me/w.pth")


def test_what_shapes_a_run_is_named_when_it_differs():
    other = dataclasses.replace(
        Config(), options={"width": 3}, optimizer=Optimizer(clip_norm=1.0), data=Data(size=(8, 8))
    )
    found = differences(Config(), other, configs.SHAPING)
    assert [line.partition(":")[0] for line in found] == [
        "options.width",
        "data.size",
        "optimizer.clip_norm",
    ]
    assert found[-1].endswith("None there, 1.0 here (--optimizer.clip-norm)")


def test_all_faults_of_a_config_are_named_at_once():
    bad = Config(batch_size=0, optimizer=Optimizer(name="sdg", momentum=1.0), options={"a": {1, 2}})
    bad = dataclasses.replace(bad, options={"dtype": float})
    with pytest.raises(UserError) as error:
        check(bad)
    for name in ("batch-size", "optimizer.name is 'sdg'", "optimizer.momentum", "options"):
        assert name in str(error.value)


def test_text_keeps_a_config():
    config = Config(options={"blocks_at": {2: (1, 3)}, "ratio": 0.1}, steps=7)
    assert from_text(to_text(config)) == config


def test_another_model_is_another_run_and_more_steps_are_not():
    config = Config()
    assert not differences(config, dataclasses.replace(config, steps=9, log_every=1))
    changed = dataclasses.replace(config, model="resnet18", data=Data(name="other"))
    assert len(differences(config, changed)) == 2


def test_the_exit_code_of_refused_input_is_2(capsys):
    assert main(["configs/none.py"]) == 2
    assert capsys.readouterr().err.startswith("error: there is no config")
