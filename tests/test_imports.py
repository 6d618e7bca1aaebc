"""The arrows between packages, and what an import costs."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PACKAGES = ["functional", "layers", "models", "checkpoints", "analysis", "cli", "train"]
MAY_IMPORT = {
    "functional": {"functional"},
    "layers": {"functional", "layers"},
    "models": {"functional", "layers", "models"},
    "checkpoints": {"functional", "layers", "models", "checkpoints"},
    "analysis": {"functional", "layers", "models", "checkpoints", "analysis"},
    "train": set(PACKAGES),
}


def imported(path: pathlib.Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def files(package: str) -> list[pathlib.Path]:
    folder = ROOT / "train" if package == "train" else ROOT / "spectral_flax" / package
    return sorted(folder.rglob("*.py"))


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_point_one_way(package):
    assert files(package)
    for path in files(package):
        ours = {n.split(".")[1] for n in imported(path) if n.startswith("spectral_flax.")}
        ours |= {"train" for n in imported(path) if n.split(".")[0] == "train"}
        wrong = (ours & set(PACKAGES)) - MAY_IMPORT[package]
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


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
