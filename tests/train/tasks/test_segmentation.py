import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from train.config import Config, Data
from train.errors import UserError
from train.tasks import make_task
from train.tasks.segmentation.data import open_split
from train.tasks.segmentation.metrics import segmentation_metrics
from train.tasks.segmentation.options import Options
from train.tasks.segmentation.task import dice_loss


def test_the_four_figures_are_those_of_the_definition():
    rng = np.random.default_rng(0)
    truth, taken = rng.integers(0, 3, 500), rng.integers(0, 3, 500)
    n = np.array([[np.sum((truth == i) & (taken == j)) for j in range(3)] for i in range(3)])
    t = n.sum(1)
    iou = [n[i, i] / (t[i] + n[:, i].sum() - n[i, i]) for i in range(3)]
    assert segmentation_metrics(n) == pytest.approx(
        {
            "mean_accuracy": sum(n[i, i] / t[i] for i in range(3)) / 3,
            "accuracy": sum(n[i, i] for i in range(3)) / t.sum(),
            "mean_iou": sum(iou) / 3,
            "weighted_iou": sum(t[i] * iou[i] for i in range(3)) / t.sum(),
        }
    )


def test_the_mean_iou_comes_first_since_that_is_what_is_drawn():
    config = Config(task="segmentation", model="unet", data=Data(name="ellipses"))
    task = make_task(config, open_split("train", Data(name="ellipses"), Options()))
    assert next(iter(task.metrics({"confusion": np.eye(2)}))) == "mean_iou"


def test_a_perfect_prediction_has_figures_of_1_and_absent_classes_do_not_count():
    assert set(segmentation_metrics(np.diag([5, 3, 0])).values()) == {1.0}
    with pytest.raises(ValueError, match="not all 0"):
        segmentation_metrics(np.zeros((2, 2)))


def test_dice_is_0_for_the_truth_and_grows_to_1():
    members = jax.nn.one_hot(jnp.arange(512).reshape(2, 16, 16) % 2, 2)
    assert dice_loss(members, members) == pytest.approx(0, abs=1e-6)
    assert dice_loss(1 - members, members) > 0.99


def test_confusion_of_batches_adds_up_and_leaves_fillers_out():
    config = Config(task="segmentation", model="unet", data=Data(name="ellipses"))
    task = make_task(config, open_split("train", Data(name="ellipses"), Options()))
    rng = np.random.default_rng(0)
    mask, logits = rng.integers(0, 2, (3, 8, 8)), rng.standard_normal((3, 8, 8, 2))
    batch = dict(image=jnp.zeros((3, 8, 8, 3)), mask=mask, valid=jnp.array([1.0, 1.0, 0.0]))
    confusion = task.metric_sums(lambda image: jnp.asarray(logits), batch)["confusion"]
    for i, j in np.ndindex(2, 2):
        assert confusion[i, j] == np.sum((mask[:2] == i) & (logits[:2].argmax(-1) == j))


def test_ellipses_are_the_same_every_time_and_others_in_the_test():
    train, test = (
        open_split(split, Data(name="ellipses"), Options()) for split in ("train", "test")
    )
    np.testing.assert_array_equal(train[3]["image"], train[3]["image"])
    assert (train[3]["image"] != test[3]["image"]).any()
    assert 0 < train[3]["mask"].mean() < 0.5


def test_augmentation_moves_image_and_mask_alike():
    source = open_split("train", Data(name="ellipses"), Options())
    mask = source[0]["mask"]
    example = {"image": np.repeat(mask[..., None], 3, -1).astype(np.uint8), "mask": mask}
    seen = set()
    for seed in range(60):
        moved = source.augment(example, np.random.default_rng(seed))
        np.testing.assert_array_equal(moved["image"][..., 0], moved["mask"])
        seen.add(moved["mask"].tobytes())
    assert len(seen) == 8


def folder(tmp_path, mask, size=(12, 10), stem="a_segmentation"):
    for part in ("images", "masks"):
        (tmp_path / "train" / part).mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "train" / "images" / "a.jpg")
    Image.fromarray(mask).save(tmp_path / "train" / "masks" / f"{stem}.png")
    return Data(name="image_mask_folders", path=str(tmp_path), size=(8, 6))


def test_folders_of_images_and_masks_are_read_and_resized(tmp_path):
    mask = np.zeros((12, 10), np.uint8)
    mask[:, 5:] = 255
    data = folder(tmp_path, mask)
    example = open_split("train", data, Options())[0]
    assert example["image"].shape == (8, 6, 3)
    np.testing.assert_array_equal(example["mask"], np.repeat([[0, 0, 0, 1, 1, 1]], 8, 0))


@pytest.mark.parametrize(
    ("mask", "stem", "message"),
    [
        (np.zeros((9, 10), np.uint8), "a", "10x9; its image is 10x12"),
        (np.arange(120, dtype=np.uint8).reshape(12, 10), "a", "not binary"),
        (np.full((12, 10), 255, np.uint16), "a", "more than 8 bits"),
        (np.zeros((12, 10), np.uint8), "b", "no image, or no mask, belongs to"),
    ],
)
def test_masks_that_do_not_fit_are_named(tmp_path, mask, stem, message):
    data = folder(tmp_path, mask, stem=stem)
    with pytest.raises(UserError, match=message):
        open_split("train", data, Options())[0]


def test_masks_of_a_palette_or_with_the_shape_in_alpha_are_read(tmp_path):
    inside = np.zeros((12, 10), np.uint8)
    inside[:, 5:] = 1
    data = folder(tmp_path, inside)
    wanted = np.repeat([[0, 0, 0, 1, 1, 1]], 8, 0)
    labels = Image.fromarray(inside, "P")
    labels.putpalette([0, 0, 0, 0, 0, 1])
    alpha = Image.new("RGBA", (10, 12))
    alpha.putalpha(Image.fromarray(inside * 255))
    dark = Image.fromarray(np.stack([inside, 0 * inside, 0 * inside], -1))
    for mask in (labels, alpha, dark, Image.fromarray(inside * 255)):
        mask.save(tmp_path / "train" / "masks" / "a_segmentation.png")
        np.testing.assert_array_equal(open_split("train", data, Options())[0]["mask"], wanted)


@pytest.mark.parametrize("part", ["images", "masks"])
def test_two_files_of_one_stem_are_refused(tmp_path, part):
    data = folder(tmp_path, np.zeros((12, 10), np.uint8))
    Image.new("RGB", (10, 12)).save(tmp_path / "train" / part / "a.bmp")
    with pytest.raises(UserError, match=r"a\.bmp' and .* share a name"):
        open_split("train", data, Options())


def test_an_image_turned_by_exif_and_its_mask_are_in_one_frame(tmp_path):
    mask = np.zeros((12, 10), np.uint8)
    mask[:, 5:] = 255
    data = folder(tmp_path, mask)
    exif = Image.Exif()
    exif[0x0112] = 6  # the stored pixels are the upright ones, turned to the left
    upright = Image.merge("RGB", [Image.fromarray(mask)] * 3)
    stored = upright.transpose(Image.Transpose.ROTATE_90)
    stored.save(tmp_path / "train" / "images" / "a.jpg", exif=exif, quality=95)
    for drawn in (Image.fromarray(mask), stored.convert("L")):
        drawn.save(tmp_path / "train" / "masks" / "a_segmentation.png")
        example = open_split("train", data, Options())[0]
        np.testing.assert_array_equal(example["mask"], example["image"][..., 0] > 127)


@pytest.mark.parametrize("value", [0, 255])
def test_a_mask_may_be_empty_or_full(tmp_path, value):
    data = folder(tmp_path, np.full((12, 10), value, np.uint8))
    assert np.unique(open_split("train", data, Options())[0]["mask"]).tolist() == [value > 0]


def test_a_folder_needs_a_path_and_a_size():
    with pytest.raises(UserError, match=r"--data\.path"):
        open_split("train", Data(name="image_mask_folders"), Options())


def test_an_unknown_option_of_the_task_is_named():
    config = Config(task="segmentation", data=Data(name="ellipses"), task_options=dict(jaccard=1))
    with pytest.raises(UserError, match="jaccard"):
        make_task(config, open_split("train", Data(name="ellipses"), Options()))
