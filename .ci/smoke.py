"""What an installed package does on its own: its version and types, a list, a model, an answer."""

import importlib.metadata
import importlib.resources
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import flax
import jax
import numpy as np

import spectral_flax as sf

path = importlib.resources.files("spectral_flax")
assert "site-packages" in Path(str(path)).parts, f"{path} is that of a checkout"
assert (path / "py.typed").is_file()
assert importlib.metadata.version("spectral-flax") == sf.__version__
command = Path(sys.executable).with_name("spectral-flax")
names = subprocess.run([command, "list", "ffc_*"], capture_output=True, check=True, text=True)
assert "ffc_resnet50" in names.stdout

options = dict(width=32, depths=(1,), num_classes=3)
model = sf.create_model("ffc_resnet18", **options)
picture = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
answer = sf.predict(model, picture)
with tempfile.TemporaryDirectory() as folder:
    weights = f"{folder}/model.safetensors"
    sf.save(model, weights)
    assert sf.predict(sf.load(weights), picture) == answer
    from PIL import Image

    Image.fromarray(picture).save(f"{folder}/picture.png")
    told = subprocess.run(
        [command, "predict", f"{folder}/picture.png", "--weights", weights],
        capture_output=True,
        check=True,
        text=True,
    )
    assert "picture.png" in told.stdout
module = sf.to_linen("ffc_resnet18", **options)
variables = sf.get_variables(model)
logits = module.apply(variables, sf.prepare(picture, model)[None])
assert logits.shape == (1, 3)
versions = f"jax {jax.__version__}, flax {flax.__version__}, numpy {np.__version__}"
print(f"spectral_flax {sf.__version__} on Python {platform.python_version()}, {versions}: works")
