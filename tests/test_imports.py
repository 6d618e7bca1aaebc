"""The arrows between packages, and what an import costs."""

import ast
import itertools
import pathlib
import re
import subprocess
import sys
import tomllib

import pytest

ROOT = pathlib.Path(__file__).parent.parent
# Each package and module, lowest first; it imports only what stands before it.
LIBRARY = [
    "messages",
    "buckets",
    "files",
    "kept_programs",
    "memory",
    "plugins",
    "arrays",
    "kernels",
    "functional",
    "layers",
    "models",
    "checkpoints",
    "bridges",
    "inference",
    "analysis",
    "exporting",
    "__init__",
]
# The command line runs training too.
COMMANDS = ["cli", "__main__"]
TRAINING = [
    "__init__",
    "errors",
    "fields",
    "config",
    "recipes",
    "processes",
    "data",
    "report",
    "task",
    "checkpoints",
    "tasks",
    "command",
    "run",
    "evaluate",
    "__main__",
]
ORDER = [
    *(f"spectral_flax.{name}" for name in LIBRARY),
    *(f"train.{name}" for name in TRAINING),
    *(f"spectral_flax.{name}" for name in COMMANDS),
]


def imported(path: pathlib.Path) -> set[str]:
    return {name for node in ast.walk(ast.parse(path.read_text())) for name in imported_by(node)}


def imported_by(node: ast.AST) -> set[str]:
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    if isinstance(node, ast.ImportFrom):
        return {f"{node.module}.{alias.name}" for alias in node.names}
    return set()


def group_of(name: str) -> str | None:
    """Return what an imported name is part of; None for other libraries."""
    top, _, rest = name.partition(".")
    if top not in ("spectral_flax", "train"):
        return None
    group = f"{top}.{rest.partition('.')[0]}"
    return group if group in ORDER else f"{top}.__init__"


def files(group: str) -> list[pathlib.Path]:
    path = ROOT / group.replace(".", "/")
    return sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]


@pytest.mark.parametrize("group", ORDER)
def test_imports_point_one_way(group):
    below = {*ORDER[: ORDER.index(group) + 1], None}
    for path in files(group):
        wrong = {name for name in imported(path) if group_of(name) not in below}
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


@pytest.mark.parametrize("top, known", [("spectral_flax", LIBRARY + COMMANDS), ("train", TRAINING)])
def test_every_module_has_its_place(top, known):
    found = {path.stem for path in (ROOT / top).iterdir() if path.name != "py.typed"}
    found -= {"__pycache__", "embedded"}
    assert found == set(known)


# Distributions whose module has another name.
NAMES = {"PIL": "pillow", "orbax": "orbax-checkpoint", "absl": "absl-py"}


@pytest.mark.parametrize("top", ["spectral_flax", "train"])
def test_what_is_imported_is_declared(top):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    needed = [*project["dependencies"], *itertools.chain(*extras.values())]
    always = {re.split(r"[<>=\[]", line)[0] for line in project["dependencies"]}
    declared = {re.split(r"[<>=\[]", line)[0].replace("-", "_") for line in needed}
    for path in (ROOT / top).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            for name in imported_by(node):
                package = name.partition(".")[0]
                own = package in (*sys.stdlib_module_names, "spectral_flax", "train")
                found = NAMES.get(package, package).replace("-", "_")
                assert own or found in declared, f"{path.relative_to(ROOT)} imports {package}"
    top_level = {
        NAMES.get(name, name)
        for path in (ROOT / "spectral_flax").rglob("*.py")
        if path.name != "orbax.py"  # which is imported only when an Orbax folder is read or written
        for node in ast.parse(path.read_text()).body
        for name in (n.partition(".")[0] for n in imported_by(node))
    }
    third_party = top_level - set(sys.stdlib_module_names) - {"spectral_flax"}
    assert third_party <= {name.replace("-", "_") for name in always}


def test_the_functional_core_knows_arrays_only():
    for path in [*files("spectral_flax.functional"), *files("spectral_flax.kernels")]:
        assert not {n for n in imported(path) if n.split(".")[0] in ("flax", "optax", "orbax")}, (
            path
        )


def test_the_fft_is_called_in_one_file_only():
    for path in sorted((ROOT / "spectral_flax").rglob("*.py")):
        if path.name != "fourier_forms.py":
            text = path.read_text()
            assert not any(call in text for call in ("jnp.fft", "numpy.fft", "lax.fft(")), path


def test_importing_the_library_loads_nothing_heavy():
    code = "import spectral_flax, sys; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, text=True
    )
    modules = set(loaded.stdout.split())
    heavy = {"tensorflow", "torch", "matplotlib", "grain", "orbax", "PIL", "huggingface_hub"}
    assert "spectral_flax.models.resnet" in modules
    assert not modules & heavy
