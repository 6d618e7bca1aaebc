"""The table of tasks: what each entry says holds for its task, its options and its data."""

import dataclasses
import inspect
import pathlib
import re

import numpy as np
import pytest

from train.command.checks import check
from train.command.line import parse
from train.config import Config, Data, differences, from_text, to_text
from train.data import Source
from train.errors import UserError
from train.task import Task
from train.tasks import TASKS, identity, make_task, open_data, task_options

TRAIN = pathlib.Path(__file__).parents[3] / "train"
MADE = {  # data sets without files
    "classification": ("mnist5k", "resnet18"),
    "segmentation": ("ellipses", "unet_star"),
    "inpainting": ("textures", "lama"),
    "pose": ("stick_figures", "pose_resnet18"),
}
SUMS = {
    "classification": dict(
        valid=4.0, count=np.ones(4), correct=np.ones(4), correct_of_5=np.ones(4), loss=1.0
    ),
    "segmentation": dict(confusion=np.eye(2)),
    "inpainting": dict(count=1.0, psnr=20.0, ssim=0.5, l1=0.1),
    "pose": dict(index=np.zeros(1, int), valid=np.ones(1), joints=np.zeros((1, 17, 3))),
}


def config(task, **changes):
    name, model = MADE[task]
    return Config(task=task, model=model, data=Data(name=name), **changes)


def test_a_config_can_name_every_task_of_the_table_and_no_other():
    assert all(check(config(task)).task == task for task in MADE) and set(MADE) == set(TASKS)
    with pytest.raises(UserError, match="--task is 'poses'; expected one of classification, seg"):
        check(Config(task="poses"))


@pytest.mark.parametrize("task", TASKS)
def test_every_option_has_a_default_and_an_explanation(task):
    kind = TASKS[task].options
    kind()
    for field in dataclasses.fields(kind):
        assert re.search(rf'\n    {field.name}: .*\n    """\S', inspect.getsource(kind)), field.name
    assert set(TASKS[task].may_change) <= {field.name for field in dataclasses.fields(kind)}


def test_no_two_tasks_have_a_data_set_of_one_name():
    names = [name for entry in TASKS.values() for name in entry.data]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("task", TASKS)
def test_metrics_are_those_that_the_table_lists(task):
    made = make_task(config(task), open_data(config(task), "test"))
    assert list(made.metrics(SUMS[task])) == list(TASKS[task].metrics)


@pytest.mark.parametrize("task", TASKS)
def test_tasks_and_data_sets_inherit_the_members_that_are_read(task):
    source = open_data(config(task), "train")
    assert Source in type(source).__mro__
    assert Task in type(make_task(config(task), source)).__mro__


def test_no_member_of_a_protocol_is_looked_up_by_its_name():
    for path in TRAIN.rglob("*.py"):
        assert not re.search(r'getattr\((task|source), "', path.read_text()), path


def test_a_data_set_of_another_task_is_refused():
    wrong = Config(task="segmentation", data=Data(name="textures"))
    with pytest.raises(UserError, match="'textures' is for the task 'inpainting'; expected one"):
        open_data(wrong, "train")
    with pytest.raises(UserError, match="no data set 'elipses'; closest: ellipses"):
        open_data(Config(task="segmentation", data=Data(name="elipses")), "train")


def test_options_of_the_task_come_from_the_command_line():
    words = ["configs/coco_pose.py", "--task-options.sigma", "3", "--task-options.flip-test=False"]
    options = task_options(parse(words))
    assert (options.sigma, options.flip_test, options.boxes) == (3, False, None)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("mixxup", "1", "mixxup is no option of the task 'classification'; closest: mixup"),
        ("mixup", "-1", "task-options.mixup is -1; expected at least 0"),
        ("mixup", "much", "task-options.mixup is 'much'; expected a finite number"),
        ("label-smoothing", "1", r"label-smoothing is 1; expected in \[0, 1\)"),
    ],
)
def test_a_wrong_option_of_the_task_is_refused(name, value, message):
    with pytest.raises(UserError, match=message):
        parse(["configs/mnist5k.py", f"--task-options.{name}", value])


def test_help_names_the_options_of_the_task(capsys):
    with pytest.raises(SystemExit):
        parse(["configs/textures_lama.py", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "of the task inpainting" in shown and "discriminator-width (64)" in shown


def test_only_options_that_shape_a_run_tell_two_runs_apart():
    given = check(config("pose", task_options={"sigma": 2, "boxes": "a.json"}))
    stored = from_text(to_text(config("pose", task_options={"sigma": 2})))
    assert not differences(identity(stored), identity(given))
    other = dataclasses.replace(stored, task_options={"sigma": 3})
    found = differences(identity(other), identity(given))
    assert found == ["task_options.sigma: 3 there, 2 here"]


OLD = [
    (
        "classification",
        dict(label_smoothing=0.1, mixup=0.2, cutmix=0.0, views_at_once=2),
        {},
        {},
        dict(label_smoothing=0.1, mixup=0.2, views_at_once=2),
    ),
    ("pose", {}, dict(boxes="b.json"), dict(sigma=2), dict(sigma=2, boxes="b.json")),
    (
        "inpainting",
        dict(label_smoothing=0.0),
        dict(holes="thick_512", distort=True),
        dict(encoder=dict(model="resnet50", weights="a.pth", options=dict(output_stride=8))),
        dict(
            test_masks="thick_512",
            distort=True,
            encoder_model="resnet50",
            encoder_weights="a.pth",
            encoder_options=dict(output_stride=8),
        ),
    ),
]


@pytest.mark.parametrize(("task", "flat", "data", "given", "expected"), OLD)
def test_options_of_earlier_configs_are_found_where_they_are_now(task, flat, data, given, expected):
    values = dataclasses.asdict(config(task))
    values |= flat | {"task_options": given, "data": values["data"] | data}
    found = from_text(repr(values))
    assert found.task_options == expected
    assert found == config(task, task_options=expected)
    task_options(found)
