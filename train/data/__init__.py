# SPDX-License-Identifier: Apache-2.0
"""Data sets with random access, and the Grain pipelines that batch their examples."""

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
