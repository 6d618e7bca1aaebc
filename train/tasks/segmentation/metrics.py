# SPDX-License-Identifier: Apache-2.0
"""The four metrics of semantic segmentation, from one confusion matrix."""

import numpy as np


def segmentation_metrics(confusion: np.ndarray) -> dict[str, float]:
    """Return mean IoU, mean and overall accuracy, frequency-weighted IoU: ``[C, C]`` to four.

    ``confusion[i, j]`` counts the pixels of class i that were taken for class j, over the whole
    data set. Classes without a pixel count in none of the means. Long, Shelhamer and Darrell,
    "Fully Convolutional Networks", CVPR 2015, section 5.
    """
    confusion = np.asarray(confusion, np.float64)
    if confusion.ndim != 2 or confusion.shape[0] != confusion.shape[1] or confusion.sum() <= 0:
        raise ValueError(f"confusion has shape {confusion.shape}; expected [C, C], not all 0")
    right, total = np.diag(confusion), confusion.sum(1)
    present = total > 0
    right, total, taken = right[present], total[present], confusion.sum(0)[present]
    iou = right / (total + taken - right)
    return {
        "mean_iou": float(iou.mean()),
        "mean_accuracy": float(np.mean(right / total)),
        "accuracy": float(right.sum() / total.sum()),
        "weighted_iou": float((total * iou).sum() / total.sum()),
    }
