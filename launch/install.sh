#!/usr/bin/env bash
# Install this checkout into a new virtual environment, as .ci/run and the container do:
#   launch/install.sh FOLDER EXTRAS [cuda12 | tpu]
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$1 extras=$2 jax=${3:-}

python3 -m venv "$folder"
"$folder/bin/pip" install --quiet -e ".[$extras]" ${jax:+"jax[$jax]"}
"$folder/bin/python" -c "import spectral_flax, train.run.loop"
