# SPDX-License-Identifier: Apache-2.0
"""Examples: sources with random access, and the Grain pipelines that turn them into batches."""

from train.data.arrays import Arrays, mnist5k
from train.data.pipeline import RandomShift, evaluation_batches, training_batches
from train.data.registry import SOURCES, open_source
from train.data.source import Example, Padded, Source, Split

__all__ = [
    "SOURCES",
    "Arrays",
    "Example",
    "Padded",
    "RandomShift",
    "Source",
    "Split",
    "evaluation_batches",
    "mnist5k",
    "open_source",
    "training_batches",
]
