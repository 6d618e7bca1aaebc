"""The arrows between packages, and what an import costs."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PACKAGES = ["functional", "layers", "models", "checkpoints", "analysis", "cli"]
# The modules beside the packages: those of files, images and texts, and those that use models.
BASE = ["cpu", "files", "image_output", "images", "masks", "messages"]
USES = ["inpainting", "pose"]
MAY_IMPORT = {
    "base": {"base"},
    "functional": {"functional"},
    "layers": {"base", "functional", "layers"},
    "models": {"base", "functional", "layers", "models"},
    "checkpoints": {"base", "functional", "layers", "models", "checkpoints"},
    "analysis": {"base", "functional", "layers", "models", "checkpoints", "analysis"},
    "uses": {"base", "functional", "layers", "models", "checkpoints", "uses"},
    "cli": {"base", *PACKAGES, "uses", "spectral_flax"},
    "train": {"base", *PACKAGES, "uses", "spectral_flax", "train"},
}


def imported(path: pathlib.Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def group_of(name: str) -> str | None:
    """Return what an imported name is part of; None for other libraries."""
    first, *rest = name.split(".")
    if first != "spectral_flax":
        return "train" if first == "train" else None
    part = rest[0] if rest else ""
    if part in PACKAGES:
        return part
    return "base" if part in BASE else "uses" if part in USES else "spectral_flax"


def files(group: str) -> list[pathlib.Path]:
    if group in ("base", "uses"):
        names = BASE if group == "base" else USES
        return [ROOT / "spectral_flax" / f"{name}.py" for name in names]
    folder = ROOT / "train" if group == "train" else ROOT / "spectral_flax" / group
    return sorted(folder.rglob("*.py"))


@pytest.mark.parametrize("group", MAY_IMPORT)
def test_imports_point_one_way(group):
    assert files(group)
    for path in files(group):
        wrong = set(map(group_of, imported(path))) - MAY_IMPORT[group] - {None}
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


def test_every_module_has_its_place():
    modules = {path.stem for path in (ROOT / "spectral_flax").glob("*.py")}
    packages = {path.parent.name for path in (ROOT / "spectral_flax").glob("*/__init__.py")}
    assert modules == {*BASE, *USES, "__init__", "__main__"} and packages == set(PACKAGES)


def test_the_functional_core_knows_arrays_only():
    for path in files("functional"):
        assert not {n for n in imported(path) if n.split(".")[0] in ("flax", "optax", "orbax")}, (
            path
        )


def test_the_fft_is_called_in_one_file_only():
    for path in sorted((ROOT / "spectral_flax").rglob("*.py")):
        if path.name != "fourier.py":
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
