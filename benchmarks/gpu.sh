#!/usr/bin/env bash
# All that is to be known of a GPU, in 25 minutes, packed into one file:
#   benchmarks/gpu.sh OUT.tar.gz [--quick]
# Laws and published numbers at highest precision first; then times against PyTorch in float32, TF32
# and bfloat16, the table behind "auto", cuDNN's attention, and profiles. What takes too long is cut
# off and said so; the rest goes on. --quick tries each command on small shapes, on a CPU too.
# Needs: pip install -e ".[bench,test]" "jax[cuda12]"; PYTHON names another interpreter than python.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
out=${1:?file for the results, such as gpu.tar.gz} quick=("${@:2}")
python=${PYTHON:-python} results=benchmarks/results/gpu
rm -rf "$results" && mkdir -p "$results"
[[ ${quick[*]} =~ ^(--quick)?$ ]] || { echo "${quick[*]}: expected --quick" >&2; exit 2; }
faults=0

# step NAME SECONDS COMMAND...: run a command within its time and keep what it prints.
step() {
  local name=$1 limit=$2 begun=$SECONDS code=0
  shift 2
  timeout "$limit" "$@" > "$results/$name.txt" 2>&1 || code=$?
  echo "$name: exit $code after $((SECONDS - begun)) s of $limit" | tee -a "$results/steps.txt"
  ((code == 0)) || faults=$((faults + 1))
}

compare() {
  local precision=$1 limit=$2
  shift 2
  step "compare_$1_$precision" "$limit" "$python" -m benchmarks.compare "$@" \
    --precision "$precision" --turns 2 --busy "${quick[@]}"
}

precisions=(float32 tf32 bfloat16) tests=(tests/functional tests/layers tests/models/test_image.py)
models=(resnet50 ffc_resnet50_lfu --batch 64 --compiled) operators=(fourier_unit nl bat --batch 64)
profiled=(ffc_resnet50_lfu fourier_unit)
if ((${#quick[@]})); then
  precisions=(float32) tests=(tests/functional/test_fourier.py)
  models=(resnet50 --work inference) operators=(fourier_unit) profiled=(fourier_unit)
fi
step device 30 "$python" -c "import jax; print(jax.devices(), jax.__version__)"
step laws 300 env JAX_DEFAULT_MATMUL_PRECISION=highest JAX_DISABLE_MOST_OPTIMIZATIONS=0 \
  "$python" -m pytest -n 4 "${tests[@]}" -k "published or parity or unitary or Parseval or gradient"
for precision in "${precisions[@]}"; do
  compare "$precision" 210 models --only "${models[@]}"
  compare "$precision" 80 operators --only "${operators[@]}"
done
step transforms 120 "$python" -m benchmarks.transforms --batch 32 --channels 64 "${quick[@]}"
step attention 60 "$python" -m benchmarks.fused_attention "${quick[@]}"
step profile 120 "$python" -m benchmarks.step_profile --out "$results/profile" \
  --only "${profiled[@]}" "${quick[@]}"
cp benchmarks/results/*.json "$results" 2> /dev/null
tar -czf "$out" -C benchmarks/results gpu
echo "$out: $faults of $(wc -l < "$results/steps.txt") steps failed; the whole took $SECONDS s"
