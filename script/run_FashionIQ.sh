#!/usr/bin/env bash
# ImageScope on FashionIQ, its three categories one after the other.
# Further arguments go to `imagescope run`:
#   DATA_ROOT=data/tiny MODELS=tiny bash script/run_FashionIQ.sh --top-k 10
# Every GPU that CUDA_VISIBLE_DEVICES leaves visible is used.
set -euo pipefail

: "${DATA_ROOT:=data}"    # the folder that holds FashionIQ/
: "${IMAGE_DB:=image_db}" # where captions and embeddings are kept
: "${RUNS:=runs}"         # where run folders are made
: "${METHOD:=}"           # a name of `imagescope methods`; empty: imagescope
: "${MODELS:=paper}"      # a set of configs/models, or a file
: "${CAPTIONER:=}"        # single checkpoints instead of the set's: a hub id or a folder
: "${REASONER:=}"
: "${VERIFIER:=}"
: "${EVALUATOR:=}"
: "${CLIP:=}"
: "${ENGINE:=}"           # auto, vllm, transformers, openai; empty: the set's
: "${RUN_NAME:=}"         # the folder <RUNS>/FashionIQ-<category>/<RUN_NAME>/ (empty: default)
: "${SPLIT:=val}"         # the only split with public targets

source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
for category in dress shirt toptee; do
  run_benchmark "configs/FashionIQ-$category.yaml" "$@"
done
