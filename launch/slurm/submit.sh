#!/usr/bin/env bash
# Makes the environment and submits a run to Slurm:
#   bash launch/slurm/submit.sh --nodes 2 --gpus 8 [--time 24:00:00] [--partition NAME]
#     [--account NAME] [--qos NAME] [--dry-run] -- --config FILE --workdir DIR ...
# Arguments after -- go to `asesjax run`. The workdir has to be on a file system that all nodes see,
# or in a bucket (gs://, s3://). `squeue --me` shows the job, `scancel --signal=TERM JOB` lets it
# save and requeues it, `scancel JOB` ends it. The same command resumes.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
nodes="" gpus="" dry="" options=()
refuse() {
  echo "error: $1" >&2
  exit 2
}
while [ $# -gt 0 ]; do
  case "$1" in
    --)
      shift
      break
      ;;
    --config | --config[=.]* | --workdir | --workdir=*) break ;; # of the run, without a -- before
    --dry-run)
      dry=yes
      shift
      continue
      ;;
    --*=*) name="${1%%=*}" value="${1#*=}" taken=1 ;;
    *) name="$1" value="${2:-}" taken=2 ;;
  esac
  case "$name" in
    --nodes) nodes="$value" ;;
    --gpus) gpus="$value" ;;
    --time | --partition | --account | --qos) options+=("$name=$value") ;;
    *) refuse "unknown option $1; see the head of launch/slurm/submit.sh. What is for the run stands after --" ;;
  esac
  if [ -z "$value" ] || [[ "$value" = --* ]]; then refuse "$name needs a value"; fi
  shift "$taken"
done
run=()
for argument in "$@"; do # --dry-run is never one of the run's own
  if [ "$argument" = --dry-run ]; then dry=yes; else run+=("$argument"); fi
done
if ! [[ "$nodes" =~ ^[1-9][0-9]*$ && "$gpus" =~ ^[1-9][0-9]*$ ]]; then
  refuse "--nodes N and --gpus N (of each node) are needed; got '$nodes' and '$gpus'"
fi
case " ${run[*]-} " in
  *" --workdir "* | *" --workdir="*) ;;
  *) refuse "--workdir DIR is missing after --; on a file system that all nodes see, or gs:// or s3://" ;;
esac
command=(sbatch --nodes="$nodes" --ntasks-per-node="$gpus" --gpus-per-node="$gpus"
  ${options[@]+"${options[@]}"} launch/slurm/train.sbatch "${run[@]}")
cd "$root"
if [ -z "$dry" ]; then
  # shellcheck source=launch/environment.sh
  source launch/environment.sh
  extras=cuda,eval,viz
  if [[ "${run[*]}" = *://* ]]; then extras+=,buckets; fi
  make_environment "$extras"
fi
printf '$'
printf ' %q' "${command[@]}"
printf '\n'
if [ -z "$dry" ]; then exec "${command[@]}"; fi
