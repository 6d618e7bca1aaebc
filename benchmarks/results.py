# SPDX-License-Identifier: Apache-2.0
"""Where measurements are kept: ``benchmarks/results/NAME.json``, which git ignores."""

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def write(name: str, result: Any) -> Path:
    """Write a result as JSON and return its path."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    return path
