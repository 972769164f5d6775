#!/usr/bin/env bash
# Makes or refreshes the project's environment, .venv in its root. Sourced by quickstart.sh and
# tests/run.sh:   source launch/environment.sh; make_environment eval,viz
# Installs again only when setup.py or the list of extras has changed.

# Large pages for the buffers that XLA allocates anew at every step: 1.4 times less CPU time in
# training a small model. glibc reads this at process start only; elsewhere it does nothing.
export GLIBC_TUNABLES="${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}"

make_environment() {
  local extras="$1" root python candidate stamp wanted
  root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
  python="$root/.venv/bin/python"
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
    echo "making the environment $root/.venv with $("$base" --version)"
    if ! "$base" -m venv "$root/.venv"; then
      rm -rf "$root/.venv"
      echo "error: '$base -m venv' failed; on Debian and Ubuntu: apt-get install python3-venv" >&2
      return 1
    fi
  fi
  stamp="$root/.venv/installed"
  # What an earlier, larger installation has stays: extras only ever add up.
  wanted="$(cksum < "$root/setup.py") $extras"
  if [ ! -f "$stamp" ] || ! grep -qxF "$wanted" "$stamp"; then
    echo "installing asesjax[$extras] into $root/.venv (a minute or two)"
    if ! "$python" -m pip install --quiet --disable-pip-version-check -e "${root}[$extras]"; then
      echo "error: pip could not install the packages; is there a network connection?" >&2
      return 1
    fi
    if [ -f "$stamp" ] && ! grep -qF "$(cksum < "$root/setup.py")" "$stamp"; then rm "$stamp"; fi
    echo "$wanted" >> "$stamp"
  else
    echo "environment $root/.venv is up to date"
  fi
}

# torch and transformers, which only tests compare with. torch goes first and in a version of its
# own: asked for by another package, pip may bring gigabytes of GPU libraries.
add_parity_packages() {
  local root
  root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
  if ! "$root/.venv/bin/python" -c "import torch, transformers" 2>/dev/null; then
    echo "installing torch and transformers into $root/.venv"
    "$root/.venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0
    "$root/.venv/bin/python" -m pip install --quiet --disable-pip-version-check -e "${root}[hf]"
  fi
}

# TensorFlow and seqio, for the tests of asesjax/tasks. Not in .venv: everything else has to run
# where they are not.
make_data_environment() {
  # Without the import every test would be skipped.
  make_environment_of .venv-data data,eval,dev "import seqio"
}

# libtpu, for the tests that compile for TPUs. Not in .venv: jax would look for a TPU at every start.
make_tpu_environment() { make_environment_of .venv-tpu tpu,dev "import libtpu"; }

# make_environment_of FOLDER EXTRAS CHECK: an environment beside .venv that passes a Python check.
make_environment_of() {
  local root python wanted
  root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
  python="$root/$1/bin/python"
  wanted="$(cksum < "$root/setup.py")"
  if [ "$(cat "$root/$1/installed" 2>/dev/null)" = "$wanted" ]; then return; fi
  echo "installing asesjax[$2] into $root/$1 (a few minutes)"
  "$root/.venv/bin/python" -m venv "$root/$1"
  "$python" -m pip install --quiet --disable-pip-version-check -e "${root}[$2]"
  TF_CPP_MIN_LOG_LEVEL=3 "$python" -c "$3"
  echo "$wanted" > "$root/$1/installed"
}
