# SPDX-License-Identifier: Apache-2.0
"""COCO's metrics of detected poses, after the published scoring and suppression."""

import contextlib
import io
from typing import Any

import jax
import numpy as np

from spectral_flax.functional.keypoints import oks_nms
from train.tasks.pose.coco import PERSON

METRICS = ("AP", "AP50", "AP75", "AP_medium", "AP_large", "AR", "AR50", "AR75", "AR_medium")
_nms = jax.jit(oks_nms, static_argnums=3)


def detections(
    people,
    joints: np.ndarray,
    regions: np.ndarray,
    *,
    visible: float = 0.2,
    similarity: float = 0.9,
) -> list[dict[str, Any]]:
    """Return COCO's result list: ``joints`` ``[N, 17, 3]`` (x, y, score), regions' w, h ``[N, 2]``.

    A person's score is that of the box times the mean of the joints' scores above ``visible``
    (0 without any). Within an image repeated poses are dropped, at their regions' areas.
    """
    seen = joints[..., 2] > visible
    mean = (joints[..., 2] * seen).sum(1) / np.maximum(seen.sum(1), 1)
    scores = mean * np.array([person["score"] for person in people])
    areas = regions.prod(1)
    by_image: dict[int, list[int]] = {}
    for i, person in enumerate(people):
        by_image.setdefault(person["image"], []).append(i)
    results = []
    for image, members in by_image.items():
        # Made up to a few lengths, so that few programs are compiled; the last are never better.
        length = max(4, 1 << (len(members) - 1).bit_length())
        index = np.array(members + members[:1] * (length - len(members)))
        rank = np.where(np.arange(length) < len(members), scores[index], -np.inf)
        keep = np.asarray(_nms(joints[index, :, :2], rank, areas[index], similarity))
        for i in np.array(members)[keep[: len(members)]]:
            triples = joints[i].reshape(-1).tolist()
            one = dict(
                image_id=image, category_id=PERSON, keypoints=triples, score=float(scores[i])
            )
            results.append(one)
    return results


def coco_metrics(annotations: dict[str, Any], results: list[dict[str, Any]]) -> dict[str, float]:
    """Return AP, AR and so on of a result list, as pycocotools computes them."""
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise ImportError("evaluating poses needs pycocotools: pip install pycocotools") from error
    if not results:
        return dict.fromkeys(METRICS, 0.0)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {"info": {}} | annotations
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "keypoints")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {name: float(v) for name, v in zip(METRICS, evaluation.stats, strict=False)}
