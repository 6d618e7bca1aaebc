# SPDX-License-Identifier: Apache-2.0
"""People with joints: files in COCO's format, and synthetic stick figures."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from spectral_flax.functional.keypoints import COCO_FLIP_PAIRS
from spectral_flax.inference.images import exif_orientation, opened, read_image, upright
from spectral_flax.inference.pose import (
    COCO_LIMBS,
    box_to_region,
    crop,
    crop_matrix,
    inverse,
    transform_points,
)
from spectral_flax.messages import several
from train.config import Data
from train.data import Example, Source, Split
from train.data.listing import files_there
from train.data.registry import folder_of, opener
from train.data.unreadable import UnreadableFiles
from train.errors import UserError
from train.processes.paths import opened_path
from train.tasks.pose import coco
from train.tasks.pose.options import Options

_FOLDERS = {"train": "train2017", "test": "val2017"}


def open_split(split: Split, data: Data, options: Options) -> "People":
    """Open a split of the data set that ``data`` names."""
    return opener(data, SOURCES)(split, data, options)


def _stick_figures(split: Split, data: Data, options: Options) -> "People":
    return stick_figures(split, data.size or (64, 48))


def _coco_keypoints(split: Split, data: Data, options: Options) -> "People":
    boxes = options.boxes if split == "test" else None
    return coco_people(folder_of(data), split, tuple(data.size or (256, 192)), boxes)


SOURCES = {"stick_figures": _stick_figures, "coco_keypoints": _coco_keypoints}


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class People(Source):
    """One example for each person: the region around the box, and the joints in it.

    Attributes:
      annotations: as COCO's evaluation reads them.
      people: of each example the image, the box and its score, and joints if it is annotated.
      pictures: image id to the file or the array of the image.
      sides: image id to the width and height that the annotations are of.
    """

    name: str
    split: Split
    size: tuple[int, int]
    annotations: dict[str, Any] = dataclasses.field(repr=False)
    people: tuple[dict[str, Any], ...] = dataclasses.field(repr=False)
    pictures: dict[int, Any] = dataclasses.field(repr=False)
    sides: dict[int, tuple[int, int]] = dataclasses.field(default_factory=dict, repr=False)
    unreadable: UnreadableFiles = dataclasses.field(default_factory=UnreadableFiles, repr=False)
    mean = (0.485, 0.456, 0.406)
    std = (0.229, 0.224, 0.225)
    num_classes = 17

    def __post_init__(self):
        self._usable(0)  # an error, if no image can be read

    preprocessing = None

    @property
    def image_shape(self) -> tuple[int, ...]:
        return (*self.size, 3)

    def __len__(self) -> int:
        return len(self.people)

    def region(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return box_to_region(self.people[index]["box"], self.size)

    def __getitem__(self, index: int) -> Example:
        found = self._usable(index) if self.split == "train" else self._picture(index)
        index, picture = found or (index, np.zeros((1, 1, 3), np.uint8))
        person = self.people[index]
        joints = np.asarray(person.get("joints", np.zeros((17, 3))), np.float32)
        centre, extent = self.region(index)
        example = {"joints": joints[:, :2], "visible": (joints[:, 2] > 0).astype(np.float32)}
        example |= {"index": np.int32(index), "centre": np.float32(centre)}
        example["extent"] = np.float32(extent)
        if self.split == "train":
            return example | {"image": picture}
        matrix = crop_matrix(centre, extent, self.size)
        example["joints"] = np.float32(transform_points(joints[:, :2], inverse(matrix)))
        example["valid"] = np.float32(found is not None)
        return example | {"image": crop(picture, matrix, self.size)}

    def _usable(self, index: int) -> tuple[int, np.ndarray]:
        """Return the index and the image of a person, or of another whose image can be read."""
        return self.unreadable.readable(index, len(self), self._picture, self.name)

    def _picture(self, index: int) -> tuple[int, np.ndarray] | None:
        """Return the index and the image of a person; None if it cannot be read."""
        picture = self.pictures[self.people[index]["image"]]
        if not isinstance(picture, np.ndarray):
            file, sides = picture, self.sides[self.people[index]["image"]]
            picture = self.unreadable.read(str(file), lambda: _in_frame(file, sides))
        return None if picture is None else (index, picture)

    def augment(self, example: Example, rng: np.random.Generator) -> Example:
        """Scale, rotate, mirror as published, and crop."""
        image, joints, visible = (example[k] for k in ("image", "joints", "visible"))
        centre, extent = example["centre"].copy(), example["extent"]
        extent = extent * np.clip(rng.normal(1, 0.3), 0.7, 1.3)
        degrees = np.clip(rng.normal(0, 40), -80, 80) if rng.random() < 0.6 else 0.0
        if rng.random() < 0.5:
            image, width = image[:, ::-1], image.shape[1]
            order = mirrored_order()
            joints, visible = joints[order] * (-1, 1) + (width - 1, 0), visible[order]
            centre[0] = width - centre[0] - 1
        matrix = crop_matrix(centre, extent, self.size, degrees)
        placed = np.float32(transform_points(joints, inverse(matrix)))
        pixels = crop(np.ascontiguousarray(image), matrix, self.size)
        return example | {"image": pixels, "joints": placed, "visible": visible}


def _in_frame(path: Path, sides: tuple[int, int]) -> np.ndarray:
    """Return an image in the frame of its annotations, which are of ``sides`` width and height.

    That is upright, or as stored where the camera noted a quarter turn and the sides say so.
    """
    image = read_image(path)
    with opened(path) as file:
        stored, turn = file.size, exif_orientation(file) or 1
    if turn != 1 and stored == image.size:
        raise ValueError(
            f"turned or mirrored by its EXIF orientation {turn}, and its {stored[0]}x{stored[1]} "
            "pixels do not tell whether its annotations are too; expected pixels stored upright, "
            "without that tag"
        )
    if image.size != sides and stored == sides:
        image = upright(image, {6: 8, 8: 6}.get(turn, turn))  # back to how it is stored
    if image.size != sides:
        found, listed = (f"{width}x{height}" for width, height in (image.size, sides))
        raise ValueError(f"it has {found} pixels; its annotations are of {listed}")
    return np.asarray(image)


def mirrored_order() -> list[int]:
    """Return the index of each joint's mirror image."""
    partner = dict(COCO_FLIP_PAIRS) | {b: a for a, b in COCO_FLIP_PAIRS}
    return [partner.get(i, i) for i in range(17)]


def coco_people(folder: Path, split: Split, size: tuple[int, int], boxes: str | None) -> People:
    """Read COCO's keypoints: ``annotations/person_keypoints_*.json`` and the folders of images.

    Annotated boxes are clipped to the image; people without a joint or an area are left out.
    ``boxes`` is a detector's file: a list of image_id, category_id, bbox and score.
    """
    part = _FOLDERS[split]
    annotations = coco.read_annotations(folder / "annotations" / f"person_keypoints_{part}.json")
    if boxes is None:
        people = _annotated(annotations)
    else:
        people = _detected(
            coco.read_boxes(opened_path("--task-options.boxes", boxes), annotations), annotations
        )
    if not people:
        what = f"with joints in the annotations of {part}" if boxes is None else f"in {boxes!r}"
        raise UserError(f"no person {what} whose box is inside an image of {str(folder)!r}")
    pictures = {n: folder / part / file for n, (*_, file) in annotations.images.items()}
    files = {annotations.images[person["image"]][2] for person in people}
    missing = [folder / part / name for name in files - files_there(folder / part, files)]
    if missing:
        raise UserError(
            f"images listed but missing: {several(sorted(map(str, missing)), 3, limit=300)}"
        )
    return People(
        name=f"coco/{part}",
        split=split,
        size=size,
        annotations=annotations.truth,
        people=tuple(people),
        pictures=pictures,
        sides={n: (width, height) for n, (width, height, _) in annotations.images.items()},
    )


def _detected(found, annotations: coco.Annotations) -> list[dict[str, Any]]:
    people = []
    for one in found:
        box = _clipped(one["bbox"], annotations.images[one["image_id"]])
        if box is not None:
            people.append(dict(image=one["image_id"], box=box, score=one["score"]))
    return people


def _annotated(annotations: coco.Annotations) -> list[dict[str, Any]]:
    people = []
    for one in annotations.people:
        if one["iscrowd"] or one["area"] <= 0 or not one["num_keypoints"]:
            continue
        box = _clipped(one["bbox"], annotations.images[one["image_id"]])
        if box is not None:
            joints = np.reshape(one["keypoints"], (-1, 3))
            people.append(dict(image=one["image_id"], box=box, score=1.0, joints=joints))
    return people


def _clipped(box, size) -> tuple[float, ...] | None:
    """Return a box clipped to the image; None if nothing is left of it."""
    x, y, w, h = box
    left, top = max(0, x), max(0, y)
    right = min(size[0] - 1, left + max(0, w - 1))
    bottom = min(size[1] - 1, top + max(0, h - 1))
    return (left, top, right - left, bottom - top) if right > left and bottom > top else None


def stick_figures(split: Split, size: tuple[int, int]) -> People:
    """Draw figures with 17 joints, some hidden behind grey boxes: 400 to train on, 100 to test.

    Hidden joints are annotated (visibility 1) and follow from the visible ones. Every
    second figure is seen from behind: only the head tells which of two knees is the left one.
    """
    count, side = (400, 100)[split == "test"], 96
    people, pictures = [], {}
    for index in range(count):
        rng = np.random.default_rng([split == "train", index, 3])
        behind = bool(rng.integers(2))
        joints = _figure(rng, side, behind)
        picture, hidden = _drawn(rng, side, joints, behind)
        low, high = joints.min(0) - 4, joints.max(0) + 4
        box = [float(v) for v in (*low, *(high - low))]
        triples = [
            v
            for (x, y), covered in zip(joints, hidden, strict=True)
            for v in (float(x), float(y), 1 if covered else 2)
        ]
        pictures[index] = picture
        person = dict(id=index + 1, image_id=index, category_id=coco.PERSON, iscrowd=0, bbox=box)
        area = 0.6 * box[2] * box[3]
        people.append(person | dict(area=area, keypoints=triples, num_keypoints=17))
    images = {index: (side, side, "") for index in pictures}
    annotations = coco.Annotations(images, people, {}, coco.PERSON)
    return People(
        name=f"stick_figures/{split}",
        split=split,
        size=size,
        annotations=annotations.truth,
        people=tuple(_annotated(annotations)),
        pictures=pictures,
    )


def _figure(rng, side, behind) -> np.ndarray:
    """Return 17 joints, x and y: a person seen from the front or behind, limbs at random angles."""
    unit = side * rng.uniform(0.15, 0.2)
    hip = np.array([side / 2, side * 0.55]) + rng.normal(0, side * 0.04, 2)
    lean = rng.normal(0, 0.15)
    turn = lambda angle: np.array([np.sin(angle), np.cos(angle)])
    up, across = -turn(lean), np.array([np.cos(lean), -np.sin(lean)])
    neck = hip + 1.5 * unit * up
    head = neck + 0.6 * unit * up
    joints = np.zeros((17, 2))
    joints[0] = head
    joints[1:5] = [head + unit * (a * across + 0.15 * up) for a in (0.15, -0.15, 0.3, -0.3)]
    for side_, sign in ((0, 1), (1, -1)):
        shoulder, hip_ = neck + sign * 0.5 * unit * across, hip + sign * 0.35 * unit * across
        arm, leg = rng.uniform(-0.3, 2.6) * sign, rng.uniform(-0.1, 0.7) * sign
        elbow = shoulder + 0.8 * unit * turn(arm)
        knee = hip_ + unit * turn(leg)
        joints[[5 + side_, 7 + side_, 11 + side_, 13 + side_]] = shoulder, elbow, hip_, knee
        joints[9 + side_] = elbow + 0.7 * unit * turn(arm + sign * rng.uniform(0, 1.2))
        joints[15 + side_] = knee + 0.9 * unit * turn(leg - sign * rng.uniform(0, 0.5))
    if behind:  # the same outline, with left and right exchanged
        joints = joints[mirrored_order()]
    return np.clip(joints, 2, side - 3)


def _drawn(rng, side, joints, behind) -> tuple[np.ndarray, np.ndarray]:
    """Draw the figure and cover parts of it; return the image and which joints are covered."""
    from PIL import Image, ImageDraw

    background, skin = rng.integers(90, 170, 3), rng.integers(180, 255, 3)
    picture = Image.new("RGB", (side, side), tuple(background.tolist()))
    draw = ImageDraw.Draw(picture)
    skin, hair = (tuple((skin / n).astype(int).tolist()) for n in (1, 4))
    for a, b in COCO_LIMBS[4:]:
        draw.line([*map(tuple, joints[[a, b]].tolist())], fill=skin, width=3)
    (x, y), r = joints[0], np.ptp(joints[3:5, 0]) / 2
    draw.line([(x, y), tuple(joints[5:7].mean(0).tolist())], fill=skin, width=3)
    draw.ellipse((x - r, y - 1.3 * r, x + r, y + 0.9 * r), fill=hair if behind else skin)
    for x, y in joints[1:3]:
        draw.ellipse((x - 1, y - 1, x + 1, y + 1), fill=hair)
    hidden = np.zeros(17, bool)
    hidden[:3] = behind
    for _ in range(rng.integers(1, 5)):
        low = joints[rng.integers(5, 17)] - rng.uniform(4, 12, 2)
        high = low + rng.uniform(12, 24, 2)
        draw.rectangle((*low.tolist(), *high.tolist()), fill=(70, 70, 70))
        hidden |= ((joints >= low) & (joints <= high)).all(1)
    pixels = np.asarray(picture) + rng.normal(0, 6, (side, side, 3))
    return np.clip(pixels, 0, 255).astype(np.uint8), hidden
