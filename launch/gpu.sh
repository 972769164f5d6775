#!/usr/bin/env bash
# A run on the GPUs of this machine: makes .venv with jax for CUDA, checks that jax finds the GPUs,
# then calls `asesjax run` with the arguments:
#   bash launch/gpu.sh --config configs/gsm8k.py --workdir runs/gsm8k --config.mesh.preset=fsdp
#   bash launch/gpu.sh --dry-run ...        prints the commands and runs none
# The same command resumes where it stopped. It uses every GPU, or those of CUDA_VISIBLE_DEVICES.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
# shellcheck source=launch/environment.sh
source "$root/launch/environment.sh"
dry="" run=()
for argument in "$@"; do # --dry-run is never one of the run's own
  if [ "$argument" = --dry-run ]; then dry=yes; else run+=("$argument"); fi
done
show() {
  printf '$'
  printf ' %q' "$@"
  printf '\n'
  if [ -z "$dry" ]; then "$@"; fi
}
show nvidia-smi --list-gpus || {
  echo "error: nvidia-smi finds no GPU here; install the NVIDIA driver, nothing else is needed" >&2
  exit 1
}
extras=cuda,eval,viz
if [[ "${run[*]-}" = *://* ]]; then extras+=,buckets; fi
show make_environment "$extras"
cd "$root"
show .venv/bin/python -c '
import sys, jax
if jax.default_backend() != "gpu":
    sys.exit("error: jax finds no GPU, only " + jax.default_backend() + "; is the driver new "
             "enough for the CUDA version in setup.py, and JAX_PLATFORMS unset?")
print(len(jax.devices()), "x", jax.devices()[0].device_kind)'
show exec .venv/bin/asesjax run ${run[@]+"${run[@]}"}
