# SPDX-License-Identifier: Apache-2.0
"""Files in COCO's format: read, checked, and completed by fields that follow from others."""

import collections
import contextlib
import dataclasses
import itertools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spectral_flax.files import read_bytes
from spectral_flax.messages import quoted, reason
from train.errors import UserError

JOINTS = 17
PERSON = 1
"""Category of people in the results of this module, whatever the file calls it."""

# No image has a place so far out; float32 holds it, and its square.
_FAR = 1e6


@dataclasses.dataclass(frozen=True, eq=False)
class Annotations:
    """People in images.

    Attributes:
      images: of each image its width, height and file name, by number.
      people: annotations as COCO has them, all fields filled in, numbered from 1.
      numbers: the numbers of images by what the file calls them.
      person: what the file calls the category of people.
    """

    images: dict[int, tuple[int, int, str]]
    people: list[dict[str, Any]]
    numbers: dict[int | str, int]
    person: int | str

    @property
    def truth(self) -> dict[str, Any]:
        """The annotations as COCO's evaluation reads them."""
        images = [dict(id=number) for number in self.images]
        categories = [dict(id=PERSON, name="person")]
        return dict(images=images, annotations=self.people, categories=categories)


def read_annotations(path: Path) -> Annotations:
    """Read a file of key points.

    Fields that follow from others may be missing: ``id``, ``num_keypoints``, ``iscrowd`` (0),
    ``area`` (the box's), ``categories``. The category of people is the one named person, else the
    only one with key points.

    Raises:
      UserError: the file cannot be read, or a field makes no sense.
    """
    whole = _read(path)
    with _naming(path):
        images, numbers = _images(_objects(_of_kind(whole, dict, "the file"), "images"))
        rows = _objects(whole, "annotations")
        person, categories = _person(whole, rows)
        people = []
        for place, (row, category) in enumerate(zip(rows, categories, strict=True)):
            if category == person:
                name = f"annotation {quoted(row['id'])}" if "id" in row else f"annotations[{place}]"
                people.append(_completed(row, name, numbers) | dict(id=len(people) + 1))
        return Annotations(images, people, numbers, person)


def read_boxes(path: Path, annotations: Annotations) -> list[dict[str, Any]]:
    """Read a detector's boxes of people: a list of image_id, category_id, bbox and score."""
    with _naming(path):
        rows = _objects({"boxes": _of_kind(_read(path), list, "the file")}, "boxes")
        found, others = [], set()
        for place, row in enumerate(rows):
            name = f"boxes[{place}]"
            category = _identity(_field(row, "category_id", name), name, "category_id")
            if category != annotations.person:
                others.add(category)
                continue
            number = _image_number(row, name, annotations.numbers)
            box = _numbers(_field(row, "bbox", name), 4, name, "bbox")
            score = _numbers([_field(row, "score", name)], 1, name, "score")[0]
            found.append(dict(image_id=number, bbox=box, score=score))
        if not found:
            of = f"; it has those of {_listed(others)}" if others else ""
            raise ValueError(f"no box is of the category {quoted(annotations.person)}{of}")
        return found


@contextlib.contextmanager
def _naming(path: Path):
    try:
        yield
    except (ValueError, RecursionError) as error:
        raise UserError(f"{str(path)!r} is not laid out as COCO's files: {error}") from error


def _read(path: Path) -> Any:
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"cannot read {str(path)!r}: it is no file")
        return json.loads(read_bytes(path))
    except OSError as error:
        raise UserError(f"cannot read {str(path)!r}: {reason(error)}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{str(path)!r} is not JSON: {error}") from error


def _images(rows: Sequence[dict]) -> tuple[dict[int, tuple[int, int, str]], dict]:
    images, names = {}, []
    for place, row in enumerate(rows):
        where = f"images[{place}]"
        names.append(_identity(_field(row, "id", where), where, "id"))
    if len(set(names)) < len(names):
        twice = collections.Counter(names).most_common(1)[0][0]
        raise ValueError(f"images has the id {quoted(twice)} twice")
    whole = all(isinstance(name, int) for name in names)  # then ties stay in COCO's order
    numbers = {name: name if whole else place for place, name in enumerate(names)}
    for name, row in zip(names, rows, strict=True):
        where = f"image {quoted(name)}"
        sides = [_field(row, side, where) for side in ("width", "height")]
        if not all(_is_number(side) and side > 0 and side == int(side) for side in sides):
            raise ValueError(f"{where} is {quoted(sides)} wide and high; expected whole numbers")
        file = _field(row, "file_name", where)
        if not isinstance(file, str) or not file:
            raise ValueError(f"{where} has the file_name {quoted(file)}; expected a path")
        images[numbers[name]] = (int(sides[0]), int(sides[1]), file)
    return images, numbers


def _person(whole: dict, rows: Sequence[dict]) -> tuple[int | str, list[int | str]]:
    """Return the category of people, and that of each annotation."""
    listed = {}
    if whole.get("categories") is not None:
        for place, row in enumerate(_objects(whole, "categories")):
            where = f"categories[{place}]"
            name = _identity(_field(row, "id", where), where, "id")
            if listed.setdefault(name, row) != row:
                raise ValueError(f"categories has the id {quoted(name)} twice")
    categories = [
        None if row.get("category_id") is None
        else _identity(row["category_id"], f"annotations[{place}]", "category_id")
        for place, row in enumerate(rows)
    ]  # fmt: skip
    known = set(listed) or set(categories) - {None} or {PERSON}
    if None in categories and len(known) > 1:
        raise ValueError(f"annotations[{categories.index(None)}] lacks 'category_id'")
    categories = [min(known) if name is None else name for name in categories]
    named = [c for c, row in listed.items() if _is_person(row.get("name"))]
    if not listed and len(known) == 1:
        return min(known), categories
    if len(listed) == len(named) == len(set(categories)) == 1:
        return categories[0], categories  # people alone are listed, and meant, by whatever number
    used = {c for c, row in zip(categories, rows, strict=True) if _has_joints(row)}
    strange = used - set(listed)
    if listed and strange:
        raise ValueError(f"categories does not list {_listed(strange)}, of which people are")
    for candidates in (named, [c for c in named or listed if listed[c].get("keypoints")], used):
        if len(candidates) == 1:
            return next(iter(candidates)), categories
    of = f" named {_listed(row.get('name') for row in listed.values())}" if listed else ""
    found = f"its categories are {_listed(known)}{of}"
    raise ValueError(f"{found}; expected one named person, or one with keypoints")


def _has_joints(row: dict) -> bool:
    joints = row.get("keypoints")
    return any(joints[2::3]) if isinstance(joints, list) else bool(joints)


def _is_person(name: Any) -> bool:
    return isinstance(name, str) and name.strip().lower() == "person"


def _completed(row: dict, name: str, numbers: dict) -> dict[str, Any]:
    """Return an annotation with all that COCO's evaluation reads."""
    number = _image_number(row, name, numbers)
    joints = np.zeros((JOINTS, 3))
    if row.get("keypoints"):
        joints = _joints(row["keypoints"], name)
    box = _numbers(_field(row, "bbox", name), 4, name, "bbox")
    area = row.get("area")
    area = box[2] * box[3] if area is None else _numbers([area], 1, name, "area", _FAR**2)[0]
    crowd = row.get("iscrowd", 0)
    if crowd not in (0, 1, None):
        raise ValueError(f"{name} has the iscrowd {quoted(crowd)}; expected 0 or 1")
    return dict(
        image_id=number,
        category_id=PERSON,
        iscrowd=int(crowd or 0),
        area=area,
        bbox=box,
        keypoints=joints.reshape(-1).tolist(),
        num_keypoints=int((joints[:, 2] > 0).sum()),
    )


def _joints(value: Any, name: str) -> np.ndarray:
    """Return joints ``[17, 3]``; one that is not labelled is 0, whatever place it has."""
    if not isinstance(value, list) or len(value) != 3 * JOINTS:
        found = f"{len(value) / 3:g} joints" if isinstance(value, list) else quoted(value)
        raise ValueError(f"{name} has {found}; expected {JOINTS} of 3 numbers each")
    joints = np.array([v if _is_number(v) else np.nan for v in value], float).reshape(-1, 3)
    joints[joints[:, 2] == 0] = 0
    good = np.isfinite(joints).all(1) & (joints[:, 2] >= 0)
    if good.all():
        return joints
    place = int(good.argmin())
    what = quoted(value[3 * place : 3 * place + 3])
    raise ValueError(f"{name} has the joint {what}; expected finite x, y and visibility")


def _image_number(row: dict, name: str, numbers: dict) -> int:
    image = _identity(_field(row, "image_id", name), name, "image_id")
    if image not in numbers:
        raise ValueError(f"{name} is of image {quoted(image)}, which is not listed")
    return numbers[image]


def _numbers(value: Any, count: int, name: str, field: str, most: float = _FAR) -> list[float]:
    good = isinstance(value, list) and len(value) == count
    if not good or not all(_is_number(v, most) for v in value):
        what = value[0] if count == 1 else value
        expected = "a finite number" if count == 1 else f"{count} finite numbers"
        raise ValueError(f"{name} has the {field} {quoted(what)}; expected {expected}")
    return value


def _is_number(value: Any, most: float = _FAR) -> bool:
    return type(value) in (int, float) and -most <= value <= most  # so no NaN either


def _field(row: dict, field: str, name: str) -> Any:
    if row.get(field) is None:
        raise ValueError(f"{name} lacks {field!r}")
    return row[field]


def _identity(value: Any, name: str, field: str) -> int | str:
    """Return what the file calls an image or a category: a whole number or text."""
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) not in (int, str):
        raise ValueError(f"{name} has the {field} {quoted(value)}; expected a whole number")
    return value


def _objects(whole: dict, field: str) -> list[dict]:
    rows = _of_kind(_field(whole, field, "the file"), list, field)
    for place, row in enumerate(rows):
        _of_kind(row, dict, f"{field}[{place}]")
    return rows


def _of_kind(value: Any, kind: type, name: str) -> Any:
    if not isinstance(value, kind):
        expected = {dict: "an object", list: "a list"}[kind]
        raise ValueError(f"{name} is {quoted(value)}; expected {expected}")
    return value


def _listed(names: Iterable) -> str:
    shown = [quoted(name) for name in itertools.islice(names, 6)]
    return ", ".join([*shown[:5], "and more"] if len(shown) > 5 else shown) or "none"
