#!/usr/bin/env bash
# All six benchmarks with the same variables and arguments; goes on after a failure, and fails then.
set -uo pipefail

status=0
for dataset in CIRCO CIRR FashionIQ Flickr30K MSCOCO VisDial; do
  printf '== %s\n' "$dataset" >&2
  bash "$(dirname "${BASH_SOURCE[0]}")/run_$dataset.sh" "$@" || status=$?
  if [[ $status -ge 128 ]]; then break; fi # interrupted
done
exit $status
