import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from own_models import entry
from PIL import Image

import spectral_flax as sf
from spectral_flax.checkpoints.weights import variables
from spectral_flax.functional.keypoints import gaussian_heatmaps
from spectral_flax.inference.pose import (
    box_to_region,
    crop,
    crop_matrix,
    draw_skeletons,
    inverse,
    predict_pose,
    transform_points,
)
from spectral_flax.models import registry
from spectral_flax.models.record import Card
from train.checkpoints.state import make_model
from train.config import Config, Data
from train.errors import UserError
from train.run.evaluate import total
from train.tasks import make_task
from train.tasks.pose.data import open_split, stick_figures
from train.tasks.pose.evaluation import coco_metrics, detections
from train.tasks.pose.options import Options
from train.tasks.pose.task import Pose


def truth_as_heatmaps(size):
    """The task, and a batch of the test set whose model draws the annotated joints."""
    source = stick_figures("test", size)
    task = Pose(test=source, image_shape=source.image_shape, options=Options(flip_test=False))
    rows = [source[i] for i in range(len(source))]
    batch = {k: np.stack([row[k] for row in rows]) for k in rows[0]}
    batch["valid"] = np.ones(len(rows), np.float32)
    joints, visible = jnp.asarray(batch["joints"] / 4), jnp.asarray(batch["visible"])
    heatmaps, _ = gaussian_heatmaps(joints, visible, size=task.heatmap_size, sigma=2)
    return task, batch, lambda image: heatmaps


def test_the_truth_as_heatmaps_has_an_average_precision_of_1():
    task, batch, model = truth_as_heatmaps((256, 192))
    figures = task.metrics(jax.device_get(task.metric_sums(model, batch)))
    assert figures["AP"] == pytest.approx(1)
    assert figures["AR"] == pytest.approx(1)


def test_batches_add_up_to_all_people():
    task, batch, model = truth_as_heatmaps((64, 48))
    heatmaps = model(None)
    halves = [slice(0, 60), slice(60, 100)]
    batches = [{k: v[h] for k, v in batch.items()} | {"half": i} for i, h in enumerate(halves)]
    step = lambda params, rest, b: task.metric_sums(lambda _: heatmaps[halves[b["half"]]], b)
    for order in (batches, batches[::-1]):
        sums = total(step, task, {}, {}, order)
        assert task.metrics(sums) == task.metrics(jax.device_get(task.metric_sums(model, batch)))


def test_people_that_were_not_seen_have_no_score():
    task, batch, model = truth_as_heatmaps((64, 48))
    batch["valid"][:] = 0
    figures = task.metrics(jax.device_get(task.metric_sums(model, batch)))
    assert figures["AP"] == 0


def test_what_a_batch_brings_to_the_host_does_not_grow_with_the_data_set():
    task, batch, model = truth_as_heatmaps((64, 48))
    few = {k: v[:3] for k, v in batch.items()}
    found = task.metric_sums(lambda _: model(None)[:3], few)
    assert {name: len(rows) for name, rows in found.items()} == dict.fromkeys(task.rows, 3)


def test_an_encoder_that_was_there_at_the_start_is_needed_at_the_start_only(tmp_path):
    options = dict(depths=(1,), encoder_width=8, deconvolutions=0)
    config = Config(task="pose", model="pose_resnet18", options=options)
    data = Data(name="stick_figures", size=(32, 16))
    weights = tmp_path / "classifier.pth"
    task_options = {"encoder_weights": str(weights)}
    config = dataclasses.replace(config, data=data, task_options=task_options)
    given = sf.create_model("resnet18", width=8, depths=(1,), num_classes=5, rngs=nnx.Rngs(7))
    sf.save(given, weights)
    task = make_task(config, open_split("train", data, Options()))
    model = make_model(config, task.prepared(tmp_path, begins=True))
    np.testing.assert_array_equal(model.encoder.stem.conv.kernel, given.stem.conv.kernel)
    weights.unlink()
    later = make_model(config, task.prepared(tmp_path, begins=False))  # filled by the checkpoint
    assert variables(later).keys() == variables(model).keys()
    with pytest.raises(UserError, match=r"encoder_weights .*classifier\.pth.*No such file"):
        task.prepared(tmp_path, begins=True)


def test_no_detection_is_a_precision_of_0():
    assert coco_metrics({"images": [], "annotations": []}, [])["AP"] == 0


def test_detections_drop_repeated_people_and_weigh_scores():
    rng = np.random.default_rng(0)
    pose = rng.uniform(0, 100, (17, 2))
    joints = np.stack([np.column_stack([p, np.full(17, s)]) for p, s in (
        (pose, 0.5), (pose + 0.1, 0.8), (pose + 90, 0.1))])  # fmt: skip
    people = [dict(image=7, score=s) for s in (1.0, 0.5, 1.0)]
    found = detections(people, joints, np.full((3, 2), 50.0))
    assert [round(one["score"], 6) for one in found] == [0.5, 0.0]  # the second repeats the first


def test_regions_have_the_proportions_of_the_crop():
    centre, extent = box_to_region((10, 20, 100, 40), (256, 192))
    np.testing.assert_allclose(centre, (60, 40))
    np.testing.assert_allclose(extent, (125, 125 / 0.75))


def test_crops_show_what_the_matrix_says():
    image = np.zeros((60, 80, 3), np.uint8)
    image[20, 50] = 255
    for degrees in (0, 30, -75):
        matrix = crop_matrix(np.array([48.0, 24.0]), np.array([24.0, 32.0]), (64, 48), degrees)
        cut = crop(image, matrix, (64, 48)).astype(float).sum(-1)
        rows, columns = np.indices(cut.shape)
        found = np.array([(columns * cut).sum(), (rows * cut).sum()]) / cut.sum()
        expected = transform_points(np.array([50.0, 20.0]), inverse(matrix))
        np.testing.assert_allclose(found, expected, atol=0.1)


def test_augmentation_keeps_joints_on_the_picture():
    source = stick_figures("train", (64, 48))
    example = dict(source[0])
    bright = np.zeros((96, 96, 3), np.uint8)
    x, y = np.rint(example["joints"][0]).astype(int)
    bright[y, x] = 255
    example |= {"image": bright, "joints": np.tile(np.float32([x, y]), (17, 1))}
    for seed in range(6):
        moved = source.augment(example, np.random.default_rng(seed))
        cut = moved["image"].astype(float).sum(-1)
        if cut.sum() > 100:
            rows, columns = np.indices(cut.shape)
            found = np.array([(columns * cut).sum(), (rows * cut).sum()]) / cut.sum()
            np.testing.assert_allclose(found, moved["joints"][0], atol=1)


def coco(tmp_path, **changes):
    annotation = dict(id=1, image_id=1, category_id=1, iscrowd=0, area=90.0)
    annotation |= dict(bbox=[-5, 2, 400, 9], keypoints=[4, 4, 2] * 17, num_keypoints=17) | changes
    image = dict(id=1, width=20, height=16, file_name="a.jpg")
    categories = [dict(id=1, name="person")]
    whole = dict(images=[image], annotations=[annotation], categories=categories)
    for part in ("train2017", "val2017"):
        (tmp_path / part).mkdir()
        (tmp_path / "annotations").mkdir(exist_ok=True)
        path = tmp_path / "annotations" / f"person_keypoints_{part}.json"
        path.write_text(json.dumps(whole))
        Image.fromarray(np.zeros((16, 20, 3), np.uint8)).save(tmp_path / part / "a.jpg")
    return Data(name="coco_keypoints", path=str(tmp_path), size=(64, 48))


def test_boxes_are_clipped_to_the_image(tmp_path):
    data = coco(tmp_path)
    source = open_split("train", data, Options())
    assert source.people[0]["box"] == (0, 2, 19, 8)
    test = open_split("test", data, Options())[0]
    assert test["image"].shape == (64, 48, 3)


def test_detected_boxes_take_the_place_of_annotated_ones(tmp_path):
    data = coco(tmp_path)
    boxes = [dict(image_id=1, category_id=c, bbox=[1, 1, 9, 9], score=0.5) for c in (1, 2)]
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    options = Options(boxes=str(tmp_path / "boxes.json"))
    assert len(open_split("test", data, options)) == 1
    assert len(open_split("train", data, Options())) == 1
    (tmp_path / "boxes.json").write_text(json.dumps([boxes[0] | dict(image_id=9)]))
    with pytest.raises(UserError, match="image 9, which is not listed"):
        open_split("test", data, options)


@pytest.mark.parametrize("changes", [dict(keypoints=[0] * 51), dict(area=0), dict(iscrowd=1)])
def test_people_without_joints_are_left_out(tmp_path, changes):
    data = coco(tmp_path, **changes)
    with pytest.raises(UserError, match="no person with joints"):
        open_split("train", data, Options())


def test_missing_files_are_named(tmp_path):
    data = coco(tmp_path)
    (tmp_path / "train2017" / "a.jpg").unlink()
    with pytest.raises(UserError, match=r"listed but missing: .*a\.jpg"):
        open_split("train", data, Options())
    with pytest.raises(UserError, match="cannot read"):
        open_split("train", Data(name=data.name, path=str(tmp_path / "other")), Options())


@pytest.mark.parametrize(
    ("changes", "message"),
    [(dict(keypoints=[4, 4, 2] * 14), "14 joints; expected 17"), (dict(bbox=[1, 2]), "COCO's")],
)
def test_annotations_of_another_layout_are_named(tmp_path, changes, message):
    data = coco(tmp_path, **changes)
    with pytest.raises(UserError, match=message):
        open_split("train", data, Options())


def test_files_of_another_layout_are_named(tmp_path):
    data = coco(tmp_path)
    (tmp_path / "boxes.json").write_text('[{"category_id": 1, "image_id": 1}]')
    boxes = Options(boxes=str(tmp_path / "boxes.json"))
    with pytest.raises(UserError, match=r"boxes\.json.* lacks 'bbox'"):
        open_split("test", data, boxes)
    (tmp_path / "annotations" / "person_keypoints_train2017.json").write_text("{}")
    with pytest.raises(UserError, match=r"train2017\.json.* lacks 'images'"):
        open_split("train", data, Options())


def test_boxes_outside_the_image_are_left_out(tmp_path):
    data = coco(tmp_path, bbox=[30, 2, 5, 9])
    with pytest.raises(UserError, match=r"no person with joints .* inside an image"):
        open_split("train", data, Options())


def test_people_without_an_image_are_named(tmp_path):
    data = coco(tmp_path, image_id=5)
    with pytest.raises(UserError, match="image 5, which is not listed"):
        open_split("train", data, Options())


def test_bad_boxes_and_images_are_named():
    image = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match="the latter two positive"):
        predict_pose(None, image, [(0, 0, 0, 4)])
    for box in ((8, 0, 4, 4), (-4, 0, 4, 4), (0, 9, 1, 1), (0, -5, 8, 5)):
        with pytest.raises(ValueError, match="outside the image of 8x8"):
            predict_pose(None, image, [box])
    with pytest.raises(ValueError, match="expected uint8"):
        predict_pose(None, image.astype(np.float32))


def test_skeletons_are_drawn_where_scores_are_high():
    image = np.zeros((40, 40, 3), np.uint8)
    joints = np.random.default_rng(0).uniform(5, 35, (1, 17, 2))
    assert draw_skeletons(image, joints, np.ones((1, 17))).any()
    assert not draw_skeletons(image, joints, np.zeros((1, 17))).any()


# The order of channels, which the card of the model says, and nothing else


@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_training_shows_the_order_of_the_models_card(order, monkeypatch):
    plain = dict(mean=(0.0, 0.1, 0.2), std=(1.0, 0.5, 0.25))
    monkeypatch.setitem(registry.MODELS, "mine", entry("mine", None, channel_order=order, **plain))
    source, seen = stick_figures("test", (64, 48)), []
    red = np.zeros((64, 48, 3), np.uint8)
    red[..., 0] = 255

    def model(x):
        seen.append(x[0, 32, 24])
        return jnp.zeros((len(x), 16, 12, 17))

    task = make_task(Config(task="pose", model="mine"), source)
    task.loss(model, {k: v[None] for k, v in (source[0] | {"image": red}).items()}, None)
    wanted = np.array((1, 0, 0) if order == "RGB" else (0, 0, 1))
    np.testing.assert_allclose(seen[0], (wanted - plain["mean"]) / plain["std"], atol=1e-6)


class Seeing(nnx.Module):
    """Give heatmaps whose score is the mean of the first channel that it is shown."""

    def __call__(self, x):
        value = x[..., 0].mean((1, 2))[:, None, None, None]
        return jnp.broadcast_to(value, (len(x), 16, 12, 17))


@pytest.mark.parametrize(("order", "score"), [("RGB", 1), ("BGR", 0)])
def test_poses_are_predicted_in_the_order_of_the_card(order, score):
    red = np.zeros((64, 48, 3), np.uint8)
    red[..., 0] = 255
    zero = dict(mean=(0.0,) * 3, std=(1.0,) * 3, input_size=(64, 48))
    about = Card(paper="", channel_order=order, **zero)
    _, scores = predict_pose(Seeing(), red, [(9, 12, 30, 40)], about=about)
    np.testing.assert_allclose(scores, score, atol=1e-6)


def test_an_order_of_channels_that_the_card_does_not_say_is_refused(tmp_path):
    source = stick_figures("test", (64, 48))
    config = Config(task="pose", model="pose_resnet18", task_options=dict(bgr=False))
    with pytest.raises(UserError, match="bgr is no option of the task 'pose'; known: "):
        make_task(config, source)
    for change in (dict(channels="bgr"), dict(mean=(0.5,) * 3), dict(views="ten_crops")):
        with pytest.raises(UserError, match=r"'stick_figures' has .* only"):
            open_split("test", Data(name="stick_figures", **change), Options())
