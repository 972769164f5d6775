#!/usr/bin/env bash
# Makes .venv and runs the tests. Arguments go to pytest:
#   bash tests/run.sh                    everything but what is marked long, slow or gpu: ten minutes
#   bash tests/run.sh --quick            ruff, mypy, and the tests that neither train nor start a process
#   bash tests/run.sh --all              everything: what is slow, and all of the below
#   bash tests/run.sh tests/decode -k beam     these, with what is marked long among them
#   TEST_LONG=1 bash tests/run.sh        also what is marked long: whole runs, kills, several processes
#   TEST_PARITY=1 bash tests/run.sh      also installs torch and transformers, which the tests in
#                                        tests/parity compare with and otherwise skip without
#   TEST_DATA=1 bash tests/run.sh        first runs tests/tasks with TensorFlow and seqio, in an
#                                        environment of their own, .venv-data (3.4 GB)
#   TEST_TPU=1 bash tests/run.sh         first runs tests/aot/test_tpu.py, which compiles for TPUs,
#                                        with libtpu in an environment of its own, .venv-tpu (1.6 GB)
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
source "$root/launch/environment.sh"
arguments=()
for argument in "$@"; do
  if [ "$argument" = --quick ]; then
    for folder in aot cli decode integration launch methods models parity sharding tasks training; do
      arguments+=("--ignore=tests/$folder")
    done
  elif [ "$argument" = --all ]; then
    everything=1
    TEST_PARITY=1
    TEST_DATA=1
    if [ "$(uname -sm)" = "Linux x86_64" ]; then TEST_TPU=1; fi  # the one that libtpu is for
  else
    if [ -e "${argument%%::*}" ]; then TEST_LONG=1; fi  # a file or folder that somebody names
    arguments+=("$argument")
  fi
done
marks=(-m "not long and not slow and not gpu")
if [ "${TEST_LONG:-}" = 1 ]; then marks=(-m "not slow and not gpu"); fi
if [ "${everything:-}" = 1 ]; then marks=(); fi
make_environment eval,viz,wandb,parquet,buckets,dev
if [ "${TEST_PARITY:-}" = 1 ]; then add_parity_packages; fi
cd "$root"
if [ "${TEST_DATA:-}" = 1 ]; then
  make_data_environment
  echo "pytest tests/tasks"
  .venv-data/bin/python -m pytest tests/tasks
fi
if [ "${TEST_TPU:-}" = 1 ]; then
  make_tpu_environment
  echo "pytest tests/aot/test_tpu.py"
  ASESJAX_REQUIRE_TPU=1 .venv-tpu/bin/python -m pytest tests/aot/test_tpu.py
fi
echo "ruff, codespell, mypy"
.venv/bin/ruff check .
.venv/bin/codespell README.md .github asesjax configs launch notebooks tests setup.py
.venv/bin/mypy
echo "pytest"
# A process that crashed is not replaced: pytest-xdist then waits for its tests for ever.
exec .venv/bin/python -m pytest -n "${TEST_PROCESSES:-2}" --dist loadfile --max-worker-restart 0 \
  ${marks[@]+"${marks[@]}"} ${arguments[@]+"${arguments[@]}"}
