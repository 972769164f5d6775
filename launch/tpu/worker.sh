#!/usr/bin/env bash
# Runs on every worker of a slice, called through gcloud by launch/tpu/*.py:
#   worker.sh setup                makes the environment
#   worker.sh start ID ARGS...     stops any run, starts `asesjax run ARGS --coordinator auto`
#   worker.sh status ID            one line: none, running or exited STATUS
#   worker.sh log LINES [follow]   the end of its output
#   worker.sh stop                 asks the run to save and end; kills it after two minutes
# At the end of a run its output is copied to logs/ in the bucket of its workdir.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
state="$HOME/asesjax-state"
patience="${ASESJAX_STOP_SECONDS:-120}"

setup() {
  if ! command -v "${PYTHON:-python3.12}" > /dev/null; then
    # The images come with Python 3.10.
    python3 -m pip install --quiet --user uv
    python3 -m uv python install --quiet 3.12
    PYTHON="$(python3 -m uv python find 3.12)"
  fi
  export PYTHON="${PYTHON:-python3.12}"
  # shellcheck source=launch/environment.sh
  source "$root/launch/environment.sh"
  make_environment tpu,buckets,eval,viz
  echo "ready: $(hostname), $(git -C "$root" rev-parse --short HEAD)"
}

# Identifies this boot of the machine: state of an earlier boot does not count.
boot() { cat /proc/sys/kernel/random/boot_id; }

# A run ends where its exit status is recorded, after its log is copied; of one that starts before,
# that status would be taken for its own. `kill` succeeds where one of the two processes lives.
is_running() {
  [ -f "$state/pid" ] && [ ! -f "$state/exit" ] &&
    [ "$(cat "$state/boot" 2> /dev/null)" = "$(boot)" ] &&
    kill -0 "$(cat "$state/pid")" "$(cat "$state/waiter")" 2> /dev/null
}

stop() {
  local waited=0
  if ! is_running; then return; fi
  kill -TERM "$(cat "$state/pid")" 2> /dev/null || true
  while is_running; do
    if [ "$waited" -ge "$patience" ]; then
      kill -KILL "$(cat "$state/pid")" 2> /dev/null || true
    fi
    sleep 1
    waited=$((waited + 1))
  done
}

start() {
  local id="$1"
  shift
  stop
  rm -rf "$state"
  mkdir -p "$state"
  boot > "$state/boot"
  echo "$id" > "$state/id"
  setsid nohup bash "$root/launch/tpu/worker.sh" _run "$@" \
    > "$state/log" 2>&1 < /dev/null &
  # Return only once `status` has something to report.
  while [ ! -f "$state/pid" ] && [ ! -f "$state/exit" ]; do sleep 0.1; done
  status "$id"
}

# Waits for the run and records its exit status, detached from the connection that started it.
run() {
  local code=0 copy
  cd "$root"
  # shellcheck source=launch/environment.sh
  source launch/environment.sh
  echo "$$" > "$state/waiter"
  .venv/bin/asesjax run "$@" --coordinator auto &
  echo "$!" > "$state/pid.new" && mv "$state/pid.new" "$state/pid"
  wait "$!" || code=$?
  if [[ " $*" =~ " --workdir"[=\ ](gs://[^/]+)/ ]]; then
    copy="${BASH_REMATCH[1]}/logs/$(hostname)-$(date -u +%Y%m%dT%H%M%S).log"
    # `stop` waits for this as well.
    timeout "$((patience / 2))" gcloud storage cp "$state/log" "$copy" --quiet ||
      echo "could not copy the log to $copy"
  fi
  echo "$code" > "$state/exit.new" && mv "$state/exit.new" "$state/exit"
}

status() {
  local what=none
  if [ "$(cat "$state/id" "$state/boot" 2> /dev/null)" = "$1"$'\n'"$(boot)" ]; then
    if [ -f "$state/exit" ]; then
      what="exited $(cat "$state/exit")"
    elif [ -f "$state/pid" ] && kill -0 "$(cat "$state/waiter")" 2> /dev/null; then
      what=running
    fi
  fi
  echo "asesjax-run $(hostname) $what"
}

case "${1:-}" in
  setup) setup ;;
  start) shift && start "$@" ;;
  _run) shift && run "$@" ;;
  status) status "$2" ;;
  log) exec tail -n "$2" ${3:+-F} "$state/log" ;;
  stop) stop && echo "stopped: $(hostname)" ;;
  *)
    sed -n '2,/^set /s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
    exit 2
    ;;
esac
