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
imagescope overview "$(place "${RUNS:-runs}")" ${RUN_NAME:+--run-name "$RUN_NAME"} || status=$?
exit $status
