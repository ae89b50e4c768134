#!/usr/bin/env bash
# All six benchmarks with the same variables and arguments, then one table of their main metrics;
# goes on after a failure, and fails at the end.
set -uo pipefail

status=0
for dataset in CIRCO CIRR FashionIQ Flickr30K MSCOCO VisDial; do
  printf '== %s\n' "$dataset" >&2
  bash "$(dirname "${BASH_SOURCE[0]}")/run_$dataset.sh" "$@" || status=$?
  if [[ $status -ge 128 ]]; then break; fi # interrupted
done

source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
runs="$(place "${RUNS:-runs}")" name="${RUN_NAME:-}" next=""
for word in "$@"; do # the table is of these runs: arguments win over variables, the last one wins
  if [[ -n "$next" ]]; then
    printf -v "$next" %s "$word"
    next=""
    continue
  fi
  case "$word" in
    --runs) next=runs ;;
    --runs=*) runs="${word#*=}" ;;
    --run-name | --run_name) next=name ;;
    --run-name=* | --run_name=*) name="${word#*=}" ;;
  esac
done
imagescope overview "$runs" ${name:+--run-name "$name"} || status=$?
exit $status
