#!/usr/bin/env bash
# Makes the environment and submits a run to Slurm:
#   bash launch/slurm/submit.sh --nodes 2 --gpus 8 [--time 24:00:00] [--partition NAME]
#     [--dry-run] [-- ] --config FILE --workdir DIR ...
# Arguments after the options above go to `asesjax run`. The workdir has to be on a file system that
# all nodes see. `squeue --me` shows the job, `scancel --signal=TERM JOB` lets it save and requeues
# it, `scancel JOB` ends it. The same command resumes.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
nodes="" gpus="" dry="" options=()
while [ $# -gt 0 ]; do
  case "$1" in
    --nodes) nodes="${2:-}" && shift 2 ;;
    --gpus) gpus="${2:-}" && shift 2 ;;
    --time | --partition | --account | --qos)
      options+=("$1=${2:-}")
      shift 2
      ;;
    --dry-run) dry=yes && shift ;;
    --) shift && break ;;
    *) break ;;
  esac
done
if ! [[ "$nodes" =~ ^[1-9][0-9]*$ && "$gpus" =~ ^[1-9][0-9]*$ ]]; then
  echo "error: --nodes N and --gpus N (of each node) must come first; got '$nodes' and '$gpus'" >&2
  exit 2
fi
case " $* " in
  *" --workdir "* | *" --workdir="*) ;;
  *)
    echo "error: --workdir DIR is missing; it has to be on a file system that all nodes see" >&2
    exit 2
    ;;
esac
command=(sbatch --nodes="$nodes" --ntasks-per-node="$gpus" --gpus-per-node="$gpus"
  ${options[@]+"${options[@]}"} launch/slurm/train.sbatch "$@")
cd "$root"
if [ -z "$dry" ]; then
  # shellcheck source=launch/environment.sh
  source launch/environment.sh
  make_environment cuda,eval,viz
fi
printf '$'
printf ' %q' "${command[@]}"
printf '\n'
if [ -z "$dry" ]; then exec "${command[@]}"; fi
