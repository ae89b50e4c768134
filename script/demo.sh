#!/usr/bin/env bash
# The whole method on tiny scenes, from a bare machine with Python >= 3.11 and a package index.
# Further arguments go to `imagescope run`. A second call installs nothing.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
ensure_env
cd "$ROOT"
imagescope tiny make data/tiny
imagescope run configs/CIRR.yaml --split val --data-root data/tiny --models tiny "$@"
