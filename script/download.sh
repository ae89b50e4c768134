#!/usr/bin/env bash
# The paper's data and checkpoints, as far as they are public: annotations (with their checksums),
# COCO's images, and the model hub's files. What needs a form or a login is named at the end.
#   DATA_ROOT=/data bash script/download.sh [--dry-run] [CIRCO CIRR FashionIQ Flickr30K MSCOCO VisDial models]
# Without names: all. What is there is not fetched again; a transfer that broke off goes on. Status 1
# where something could not be fetched or a checksum is another. The licences are the owners' own.
set -uo pipefail

: "${DATA_ROOT:=data}" # below it each benchmark has its own folder

source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
COCO=http://images.cocodataset.org
CHECKPOINTS=(
  llava-hf/llava-v1.6-vicuna-7b-hf
  meta-llama/Meta-Llama-3-8B-Instruct
  google/paligemma-3b-mix-224
  OpenGVLab/InternVL2-8B
  laion/CLIP-ViT-L-14-laion2B-s32B-b82K
)
HF=hf
if [[ -x "$VENV/bin/hf" ]]; then HF="$VENV/bin/hf"; fi
dry="" status=0 by_hand=()

# step WORDS: runs a command and says so; with --dry-run it only says so.
step() {
  printf '+'
  printf ' %q' "$@"
  printf '\n'
  if [[ -n "$dry" ]] || "$@"; then return; fi
  say "failed: $1 ${*: -1}"
  status=1
  return 1
}

clone() { # URL FOLDER [BRANCH]: into a folder that may already hold images
  if [[ -e "$2/.git" ]] && git -C "$2" rev-parse -q --verify HEAD >/dev/null; then return; fi
  step git -c init.defaultBranch=main init -q "$2" &&
    step git -C "$2" fetch -q --depth 1 "$1" "${3:-HEAD}" &&
    step git -C "$2" checkout -q FETCH_HEAD
}

# archive URL FOLDER RESULT: unpacks a zip into the folder, unless RESULT is there, and deletes it.
archive() {
  local file
  file="$2/$(basename "$1")"
  if [[ -e "$3" && ! -e "$file" ]]; then return; fi # a zip that is still there was not unpacked
  step mkdir -p "$2" || return
  if [[ ! -e "$file" ]]; then
    step curl --fail --location --retry 5 --continue-at - --output "$file.part" "$1" &&
      step mv "$file.part" "$file" || return
  fi
  step unzip -q -o "$file" -d "$2" &&
    step rm "$file"
}

coco_unlabeled() { # one copy for CIRCO and VisDial
  archive "$COCO/zips/unlabeled2017.zip" "$DATA_ROOT" "$DATA_ROOT/unlabeled2017"
}

# hub_images DATASET FOLDER: a CSV and a zip of images from the model hub.
hub_images() {
  if [[ -d "$2/images" ]]; then return; fi
  step "$HF" download "$1" --repo-type dataset --local-dir "$2" || return
  step mkdir -p "$2/images"
  local zip found=""
  for zip in "$2"/*.zip; do
    if [[ -e "$zip" || -n "$dry" ]]; then
      found=yes
      step unzip -q -o -j "$zip" -d "$2/images"
    fi
  done
  if [[ -z "$found" ]]; then
    say "no zip of images in $2"
    status=1
  fi
}

fetch() {
  case "$1" in
    CIRCO)
      clone https://github.com/miccunifi/CIRCO "$DATA_ROOT/CIRCO"
      archive "$COCO/annotations/image_info_unlabeled2017.zip" "$DATA_ROOT/CIRCO" \
        "$DATA_ROOT/CIRCO/annotations/image_info_unlabeled2017.json"
      coco_unlabeled
      ;;
    CIRR)
      clone https://github.com/Cuberick-Orion/CIRR "$DATA_ROOT/CIRR" cirr_dataset
      by_hand+=("CIRR: images are NLVR2's; fill in the form at https://lil.nlp.cornell.edu/nlvr/, \
then lay dev/ and test1/ below $DATA_ROOT/CIRR")
      ;;
    FashionIQ)
      clone https://github.com/XiaoxiaoGuo/fashion-iq "$DATA_ROOT/FashionIQ"
      by_hand+=("FashionIQ: images are links to a shop, many dead; a copy goes to \
$DATA_ROOT/FashionIQ/images/<ASIN>.png")
      ;;
    Flickr30K)
      hub_images nlphuji/flickr_1k_test_image_text_retrieval "$DATA_ROOT/Flickr30K"
      by_hand+=("Flickr30K: its images are for research alone; the terms are at \
https://shannon.cs.illinois.edu/DenotationGraph/")
      ;;
    MSCOCO) hub_images nlphuji/mscoco_2014_5k_test_image_text_retrieval "$DATA_ROOT/MSCOCO" ;;
    VisDial)
      clone https://github.com/levymsn/ChatIR "$DATA_ROOT/VisDial"
      coco_unlabeled
      ;;
    models)
      by_hand+=("models: Llama 3 and PaliGemma are gated; accept their licences at \
https://huggingface.co/meta-llama/Meta-Llama-3-8B-Instruct and \
https://huggingface.co/google/paligemma-3b-mix-224, and log in (hf auth login)")
      local checkpoint
      for checkpoint in "${CHECKPOINTS[@]}"; do
        step "$HF" download "$checkpoint" --exclude '*.bin' '*.pt' '*.pth' '*.h5' '*.msgpack'
      done
      ;;
    *) fail "download.sh knows CIRCO, CIRR, FashionIQ, Flickr30K, MSCOCO, VisDial and models, not $1" ;;
  esac
}

# check NAME: the checksums of its annotations.
check() {
  local sums
  sums="$(grep "  $1/" "$ROOT/script/annotations.sha256")" || return
  if [[ -n "$dry" ]]; then
    printf '+ sha256sum --check # %s files of %s\n' "$(wc -l <<<"$sums")" "$1"
  elif ! (cd "$DATA_ROOT" && sha256sum --check --quiet <<<"$sums"); then
    say "$1: annotations are not those that this project was tested with"
    status=1
  fi
}

names=()
for word in "$@"; do
  case "$word" in
    --dry-run) dry=yes ;;
    -h | --help)
      sed -n '2,6s/^# //p' "${BASH_SOURCE[0]}"
      exit
      ;;
    *) names+=("$word") ;;
  esac
done
if [[ ${#names[@]} == 0 ]]; then names=(CIRCO CIRR FashionIQ Flickr30K MSCOCO VisDial models); fi
for name in "${names[@]}"; do
  printf '== %s\n' "$name"
  fetch "$name"
  check "$name"
done
if [[ ${#by_hand[@]} != 0 ]]; then
  printf 'By hand:\n'
  printf '  %s\n' "${by_hand[@]}"
fi
printf 'Then: imagescope doctor --data-root %q\n' "$DATA_ROOT"
exit $status
