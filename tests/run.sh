#!/usr/bin/env bash
# Makes .venv and runs the tests. Arguments go to pytest:
#   bash tests/run.sh                    everything but what is marked slow or gpu
#   bash tests/run.sh --all              everything: what is slow, and both of the below
#   bash tests/run.sh tests/decode -k beam
#   TEST_PARITY=1 bash tests/run.sh      also installs torch and transformers, which the tests in
#                                        tests/parity compare with and otherwise skip without
#   TEST_DATA=1 bash tests/run.sh        first runs tests/tasks with TensorFlow and seqio, in an
#                                        environment of their own, .venv-data (3.4 GB)
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
source "$root/launch/environment.sh"
marks=(-m "not slow and not gpu")
arguments=()
for argument in "$@"; do
  if [ "$argument" = --all ]; then
    marks=()
    TEST_PARITY=1
    TEST_DATA=1
  else
    arguments+=("$argument")
  fi
done
make_environment eval,viz,dev
if [ "${TEST_PARITY:-}" = 1 ]; then add_parity_packages; fi
cd "$root"
if [ "${TEST_DATA:-}" = 1 ]; then
  make_data_environment
  echo "pytest tests/tasks"
  .venv-data/bin/python -m pytest tests/tasks
fi
echo "ruff"
.venv/bin/ruff check .
echo "pytest"
exec .venv/bin/python -m pytest -n "${TEST_PROCESSES:-2}" ${marks[@]+"${marks[@]}"} \
  ${arguments[@]+"${arguments[@]}"}
