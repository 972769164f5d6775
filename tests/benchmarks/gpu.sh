#!/usr/bin/env bash
# Every benchmark of a device within nine minutes, on a machine without network or installed
# asesjax; see README.md beside this file.
#   bash tests/benchmarks/gpu.sh OUT                     JSON lines, also in OUT/results.jsonl
#   bash tests/benchmarks/gpu.sh OUT --only decode-ours  some parts; --tiny: small, on a CPU
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
python="${PYTHON:-$root/.venv/bin/python}"
if [ ! -x "$python" ]; then python=python3; fi
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
exec "$python" "$root/tests/benchmarks/gpu.py" "$@"
