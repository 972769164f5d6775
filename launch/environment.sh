#!/usr/bin/env bash
# Makes or refreshes the project's environment, .venv in its root. Sourced by quickstart.sh and
# tests/run.sh:   source launch/environment.sh; make_environment eval,viz
# Installs again only when setup.py or the list of extras has changed.

# Large pages for the buffers that XLA allocates anew at every step: 1.4 times less CPU time in
# training a small model. glibc reads this at process start only; elsewhere it does nothing.
export GLIBC_TUNABLES="${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}"
# Modules are compiled where they are first imported, and kept.
unset PYTHONDONTWRITEBYTECODE
project="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

# pip_install PYTHON ARGUMENTS: without compiling all modules, of which few are ever imported; that
# takes most of the time of installing.
pip_install() { "$1" -m pip install --quiet --disable-pip-version-check --no-compile "${@:2}"; }

# make_environment EXTRAS: .venv with the package and its extras. Extras only add up: those of an
# earlier call stay installed.
make_environment() {
  local extras="$1" python="$project/.venv/bin/python" stamp="$project/.venv/installed"
  local candidate sum
  if [ ! -x "$python" ]; then
    local base=""
    for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11 python; do
      [ -n "$candidate" ] || continue
      if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        base="$candidate"
        break
      fi
    done
    if [ -z "$base" ]; then
      echo "error: no Python 3.11 or newer found; install one, or name it: PYTHON=/path/to/python3 $0" >&2
      return 1
    fi
    echo "making the environment $project/.venv with $("$base" --version)"
    if ! "$base" -m venv "$project/.venv"; then
      rm -rf "$project/.venv"
      echo "error: '$base -m venv' failed; on Debian and Ubuntu: apt-get install python3-venv" >&2
      return 1
    fi
  fi
  sum="$(cksum < "$project/setup.py")"
  if [ -f "$stamp" ] && grep -qxF "$sum $extras" "$stamp"; then
    echo "environment $project/.venv is up to date"
    return
  fi
  echo "installing asesjax[$extras] into $project/.venv (a minute or two)"
  if ! pip_install "$python" -e "${project}[$extras]"; then
    echo "error: pip could not install the packages; is there a network connection?" >&2
    return 1
  fi
  if [ -f "$stamp" ] && ! grep -qF "$sum" "$stamp"; then rm "$stamp"; fi
  echo "$sum $extras" >> "$stamp"
}

# torch and transformers, which only tests compare with. torch goes first and with its version
# pinned: as a dependency of another package, pip may bring gigabytes of GPU libraries.
add_parity_packages() {
  local python="$project/.venv/bin/python"
  if "$python" -c "import torch, transformers" 2>/dev/null; then return; fi
  echo "installing torch and transformers into $project/.venv"
  pip_install "$python" torch==2.13.0
  pip_install "$python" -e "${project}[hf]"
}

# TensorFlow and seqio, for the tests of asesjax/tasks. Not in .venv, because everything else has
# to run without them. The check matters: without seqio every test would be skipped.
make_data_environment() { make_environment_of .venv-data data,eval,test "import seqio"; }

# libtpu, for the tests that compile for TPUs. Not in .venv: jax would look for a TPU at every start.
make_tpu_environment() { make_environment_of .venv-tpu tpu,test "import libtpu"; }

# make_environment_of FOLDER EXTRAS CHECK: an environment beside .venv that passes a Python check.
make_environment_of() {
  local folder="$project/$1" sum
  sum="$(cksum < "$project/setup.py")"
  if [ "$(cat "$folder/installed" 2>/dev/null)" = "$sum" ]; then return; fi
  echo "installing asesjax[$2] into $folder (a few minutes)"
  "$project/.venv/bin/python" -m venv "$folder"
  pip_install "$folder/bin/python" -e "${project}[$2]"
  TF_CPP_MIN_LOG_LEVEL=3 "$folder/bin/python" -c "$3"
  echo "$sum" > "$folder/installed"
}
