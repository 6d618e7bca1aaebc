"""Files in COCO's format, as other programs than COCO's write them."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from spectral_flax.inference.pose import box_to_region
from train.config import Data
from train.errors import UserError
from train.tasks.pose.data import open_split
from train.tasks.pose.evaluation import coco_metrics, detections
from train.tasks.pose.options import Options

WIDTH, HEIGHT = 80, 60


def person(index, image):
    rng = np.random.default_rng(index)
    places = rng.uniform(8, 52, (17, 2)).round(1)
    triples = np.column_stack([places, rng.integers(0, 3, 17)])
    triples[:5, 2] = 2
    triples[triples[:, 2] == 0] = 0
    seen = int((triples[:, 2] > 0).sum())
    fields = dict(id=index + 1, image_id=image, category_id=1, iscrowd=0, area=1500.0)
    joints = dict(keypoints=triples.reshape(-1).tolist(), num_keypoints=seen)
    return fields | joints | dict(bbox=[6, 6, 48, 48])


def whole():
    """Four people in three images."""
    images = [dict(id=i, width=WIDTH, height=HEIGHT, file_name=f"{i}.png") for i in (1, 2, 3)]
    people = [person(i, image) for i, image in enumerate((1, 1, 2, 3))]
    return dict(images=images, annotations=people, categories=[dict(id=1, name="person")])


def write(root, content, pixels=None):
    (root / "annotations").mkdir(exist_ok=True)
    for part in ("train2017", "val2017"):
        (root / part).mkdir(exist_ok=True)
        path = root / "annotations" / f"person_keypoints_{part}.json"
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        for i in (1, 2, 3):
            Image.new("RGB", (WIDTH, HEIGHT)).save(root / part / f"{i}.png")
    return Data(name="coco_keypoints", path=str(root), size=(64, 48))


def figures_of_the_truth(data):
    source = open_split("test", data, Options())
    joints = np.stack([person["joints"] for person in source.people]).astype(float)
    joints[..., 2] = 1
    extents = np.stack([box_to_region(person["box"], (64, 48))[1] for person in source.people])
    return coco_metrics(source.annotations, detections(source.people, joints, extents))


def each(field, value):
    def change(content):
        for i, annotation in enumerate(content["annotations"]):
            annotation[field] = value(i) if callable(value) else value

    return change


def without(field, every=True):
    def change(content):
        for annotation in content["annotations"][: None if every else 1]:
            del annotation[field]

    return change


def renamed_category(number, **fields):
    def change(content):
        content["categories"] = [dict(id=1, name="dog"), dict(id=number) | fields]
        each("category_id", number)(content)
        dog = person(9, 2) | dict(id=9, category_id=1)
        del dog["keypoints"], dog["num_keypoints"]
        content["annotations"].append(dog)

    return change


def another_animal(content):
    content["categories"].append(dict(id=2, name="dog", keypoints=["nose"] * 17))
    content["annotations"] += [person(7, 3) | dict(category_id=2, id=77)]


def text_ids(content):
    for image in content["images"]:
        image["id"] = f"image {image['id']}"
    each("image_id", lambda i: f"image {(1, 1, 2, 3)[i]}")(content)


def no_categories(content):
    del content["categories"]


def nan_where_not_labelled(content):
    for annotation in content["annotations"]:
        joints = annotation["keypoints"]
        for i in range(0, 51, 3):
            if joints[i + 2] == 0:
                joints[i], joints[i + 1] = float("nan"), None


CHANGES = {
    "nothing": lambda content: None,
    "ids from 0": each("id", lambda i: i),
    "equal ids": each("id", 5),
    "ids of text": each("id", "a"),
    "images with names for ids": text_ids,
    "images from 0": lambda content: (
        [image.update(id=image["id"] - 1) for image in content["images"]],
        each("image_id", lambda i: (0, 0, 1, 2)[i])(content),
    ),
    "people are category 3": renamed_category(3, name="person"),
    "people are named Person": renamed_category(3, name=" Person "),
    "people have key points": renamed_category(3, name="pedestrian", keypoints=["nose"] * 17),
    "people alone are annotated with key points": renamed_category(3, name="pedestrian"),
    "one category is listed and another used": each("category_id", 3),
    "animals have key points too": another_animal,
    "no categories": no_categories,
    "no categories, another number": lambda content: (
        no_categories(content),
        each("category_id", 3)(content),
    ),
    "no categories, and one annotation of none": lambda content: (
        no_categories(content),
        without("category_id", every=False)(content),
    ),
    "nothing but joints, boxes and images": lambda content: (
        no_categories(content),
        [without(f)(content) for f in ("id", "num_keypoints", "iscrowd", "area", "category_id")],
    ),
    "wrong counts": each("num_keypoints", 0),
    "crowds as truth values": each("iscrowd", False),
    "null fields": lambda content: [
        each(f, None)(content) for f in ("id", "num_keypoints", "iscrowd", "area")
    ],
    "places of unlabelled joints are no numbers": nan_where_not_labelled,
    **{
        f"{'no' if every else 'one has no'} {field}": without(field, every)
        for field in ("id", "num_keypoints", "iscrowd", "area", "category_id")
        for every in (True, False)
    },
}


@pytest.mark.parametrize("name", CHANGES)
def test_the_truth_has_an_average_precision_of_1_however_a_file_is_written(tmp_path, name):
    content = whole()
    CHANGES[name](content)
    data = write(tmp_path, content)
    figures = figures_of_the_truth(data)
    assert figures["AP"] == pytest.approx(1) and figures["AR"] == pytest.approx(1)
    source = open_split("train", data, Options())
    assert len(source) == 4
    for i in range(4):
        assert all(np.isfinite(v).all() for v in source[i].values())


def test_only_people_are_taken(tmp_path):
    content = whole()
    another_animal(content)
    data = write(tmp_path, content)
    assert len(open_split("train", data, Options())) == 4
    boxes = [
        dict(image_id=1, category_id=c, bbox=[1, 1, 9, 9], score=s) for c, s in ((1, 0.5), (2, 1))
    ]
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    options = Options(boxes=str(tmp_path / "boxes.json"))
    assert [p["score"] for p in open_split("test", data, options).people] == [0.5]
    (tmp_path / "boxes.json").write_text(json.dumps(boxes[1:]))
    with pytest.raises(UserError, match="no box is of the category 1; it has those of 2"):
        open_split("test", data, options)


def joint(value, place=0):
    def change(content):
        content["annotations"][2]["keypoints"][place] = value

    return change


def first(group, **fields):
    return lambda content: content[group][0].update(fields)


def changes(*parts):
    return lambda content: [part(content) for part in parts]


def second_category(**fields):
    return lambda content: content["categories"].append(dict(id=2, name="person") | fields)


BAD = {
    "a joint is not a number": (joint(float("nan")), "annotation 3 has the joint .nan, "),
    "a joint is infinite": (joint(float("-inf")), "annotation 3 has the joint .-inf, "),
    "a joint is too far": (joint(1e300, 1), "annotation 3 has the joint .*1e.300"),
    "a joint is an integer too long": (joint(10**400), "annotation 3 has the joint .an integer"),
    "a joint is text": (joint("4.0"), "annotation 3 has the joint .'4.0', "),
    "a visibility is not a number": (joint(float("nan"), 2), "finite x, y and visibility"),
    "a visibility is negative": (joint(-1, 2), "finite x, y and visibility"),
    "joints are an object": (first("annotations", keypoints={"x": 1}), "expected 17 of 3 numbers"),
    "a box is not a number": (first("annotations", bbox=[1, 2, float("nan"), 4]), "has the bbox"),
    "a box has text": (first("annotations", bbox=[1, 2, "3", 4]), "expected 4 finite numbers"),
    "a box is missing": (first("annotations", bbox=None), "annotation 1 lacks 'bbox'"),
    "an area is infinite": (first("annotations", area=float("inf")), "1 has the area inf"),
    "a crowd is a list": (first("annotations", iscrowd=[]), "annotation 1 has the iscrowd .."),
    "an image is no number": (first("annotations", image_id=[1]), "has the image_id .1.; expected"),
    "an image has no size": (first("images", width="80"), r"image 1 is \['80', 60\] wide and high"),
    "an image is huge": (first("images", width=1e308), "wide and high; expected whole"),
    "an image has no file": (first("images", file_name=None), "image 1 lacks 'file_name'"),
    "a file name is a number": (first("images", file_name=7), "file_name 7; expected a path"),
    "an image is listed twice": (first("images", id=2), "images has the id 2 twice"),
    "two categories are people": (
        changes(second_category(), first("annotations", category_id=2)),
        "its categories are 1, 2 named 'person', 'person'; expected one",
    ),
    "a category is listed twice": (
        changes(second_category(), second_category(name="dog")),
        "categories has the id 2 twice",
    ),
    "an unlisted category has joints": (
        changes(second_category(name="dog"), first("annotations", category_id=9)),
        "categories does not list 9",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_field_without_sense_is_named_before_anything_is_trained(tmp_path, name):
    change, message = BAD[name]
    content = whole()
    change(content)
    data = write(tmp_path, content)
    with pytest.raises(UserError, match=message) as error:
        open_split("train", data, Options())
    assert "person_keypoints_train2017.json" in str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 700


LONG = "x" * 10_000 + "\n\x1b[31m\ud800"
FILES = {
    "a list": (b"[]", "expected an object"),
    "null in a list": (b"[null]", "expected an object"),
    "text": (b'"images"', "expected an object"),
    "an object for a list": (b'{"images": {"id": 1}, "annotations": []}', "images is .*a list"),
    "null for an image": (b'{"images": [null], "annotations": []}', r"images\[0\] is None"),
    "a list for an image": (b'{"images": [[1]], "annotations": []}', r"images\[0\] is \[1\]"),
    "long text": (json.dumps({"images": LONG}).encode(), "expected a list"),
    "deep lists": (b"[" * 200_000, "is not JSON"),
    "deep lists in an image": (
        b'{"images": [{"id": ' + b"[" * 900 + b"]" * 900 + b'}], "annotations": []}',
        "expected a whole number",
    ),
    "no text at all": (b'\xff\xfe\x00"\xd8', "is not JSON"),
    "Latin 1": ('{"images": "é"}'.encode("latin-1"), "is not JSON"),
    "a long integer": (b'{"images": ' + b"9" * 5000 + b"}", "is not JSON"),
    "nothing": (b"", "is not JSON"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_not_cocos_is_refused_in_one_line(tmp_path, name):
    content, message = FILES[name]
    data = write(tmp_path, content)
    with pytest.raises(UserError, match=message) as error:
        open_split("train", data, Options())
    text = str(error.value)
    assert "train2017.json" in text and text.isprintable() and len(text) < 700
    (tmp_path / "boxes.json").write_bytes(content)
    write(tmp_path, whole())
    boxes = Options(boxes=str(tmp_path / "boxes.json"))
    with pytest.raises(UserError, match=r"boxes\.json"):
        open_split("test", data, boxes)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_understood(tmp_path, encoding):
    data = write(tmp_path, json.dumps(whole()).encode(encoding))
    assert len(open_split("train", data, Options())) == 4


def test_a_file_name_that_no_file_can_have_is_listed_as_missing(tmp_path):
    for name in ("a" * 5000 + ".png", "a\0.png", "\ud800\n.png"):
        content = whole()
        content["images"][0]["file_name"] = name
        data = write(tmp_path, content)
        with pytest.raises(UserError, match="listed but missing") as error:
            open_split("train", data, Options())
        assert str(error.value).isprintable() and len(str(error.value)) < 500


# The frame of an image and that of its annotations


def turned(root, orientation, size):
    """Write the first image, with a white spot; return the data, and it upright and as stored."""
    upright = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    upright[13:18, 58:63] = 255
    back = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]
    stored = Image.fromarray(upright)
    stored = stored if back is None else stored.transpose(Image.Transpose(back))
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = whole()
    wide = {"upright": (WIDTH, HEIGHT), "stored": stored.size}[size]
    content["images"][0].update(width=wide[0], height=wide[1])
    data = write(root, content)
    stored.save(root / "train2017" / "1.png", exif=exif)
    return data, upright, np.asarray(stored)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
@pytest.mark.parametrize("frame", ["upright", "stored"])
def test_an_image_is_read_in_the_frame_that_its_annotations_are_of(tmp_path, orientation, frame):
    data, upright, stored = turned(tmp_path, orientation, frame)
    image = open_split("train", data, Options())[0]["image"]
    np.testing.assert_array_equal(image, {"upright": upright, "stored": stored}[frame])


@pytest.mark.parametrize("orientation", [2, 3, 4])
def test_an_image_that_may_be_in_either_frame_is_named_and_not_shown(tmp_path, orientation, capfd):
    data, upright, stored = turned(tmp_path, orientation, "stored")
    image = open_split("train", data, Options())[0]["image"]
    assert not any(np.array_equal(image, other) for other in (upright, stored))
    assert re.search(rf"1\.png.* EXIF orientation {orientation}", capfd.readouterr().err)


def test_an_image_of_another_size_than_listed_is_named_and_not_shown(tmp_path, capfd):
    data = write(tmp_path, whole())
    Image.new("RGB", (HEIGHT, WIDTH)).save(tmp_path / "train2017" / "1.png")
    assert open_split("train", data, Options())[0]["image"].shape == (HEIGHT, WIDTH, 3)
    assert "1.png (it has 60x80 pixels; its annotations are of 80x60)" in capfd.readouterr().err
