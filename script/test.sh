#!/usr/bin/env bash
# The tests, linting and types among them; further arguments go to pytest (-m slow: the long ones).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
ensure_env dev
cd "$ROOT"
python_in_venv -m pytest -m "not slow" "$@"
