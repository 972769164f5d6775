#!/usr/bin/env bash
# The quick start: makes .venv, then runs the main job on the embedded data, from generated
# problems to a table of scored methods, in runs/quickstart. Arguments go to `asesjax run`:
#   bash launch/quickstart.sh --config.seed=1 --workdir runs/quickstart-seed1
# The same command resumes where it stopped; a finished run prints its table.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
source "$root/launch/environment.sh"
make_environment eval,viz
cd "$root"
workdir=(--workdir runs/quickstart)
for argument in "$@"; do
  case "$argument" in --workdir | --workdir=*) workdir=() ;; esac
done
echo "running the main job on the embedded data (7 to 10 minutes on two CPU cores)"
exec .venv/bin/asesjax run --config configs/quickstart.py ${workdir[@]+"${workdir[@]}"} "$@"
