#!/usr/bin/env bash
# Makes .venv and runs the tests. Arguments go to pytest:
#   bash tests/run.sh                    everything but what is marked slow or gpu
#   bash tests/run.sh --all              everything
#   bash tests/run.sh tests/decode -k beam
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
source "$root/launch/environment.sh"
make_environment eval,viz,dev
cd "$root"
marks=(-m "not slow and not gpu")
arguments=()
for argument in "$@"; do
  if [ "$argument" = --all ]; then marks=(); else arguments+=("$argument"); fi
done
echo "ruff"
.venv/bin/ruff check .
echo "pytest"
exec .venv/bin/python -m pytest -n "${TEST_PROCESSES:-2}" "${marks[@]}" "${arguments[@]}"
