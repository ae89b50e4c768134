#!/usr/bin/env bash
# The tests, linting and types among them, in two processes, a file of tests in one of them; further
# arguments go to pytest (-m slow: the long ones; -n 0: in one process).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
ensure_env dev
cd "$ROOT"
# two processes on two cores: a thread each, which waits without spinning
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"
python_in_venv -m pytest -n 2 --dist loadfile -m "not slow" "$@"
