#!/usr/bin/env bash
# Runs the tests that compile for NVIDIA GPUs, without one, in an environment of their own: Python 3.12, jax 0.11.2 and
# its plugin for CUDA, as machines with a GPU have them. Arguments go to pytest. PYTHON312 names the interpreter.
# shellcheck disable=SC1007,SC1091,SC2034,SC2154  # environment.sh reads and sets them
set -euo pipefail
tests=$(CDPATH= cd -- "$(dirname -- "${BASH_SOURCE[0]}")" >/dev/null && pwd)
jax=0.11.2

PYTHON=$(bash "$tests/python312.sh") || {
  echo "nothing is compiled for GPUs" >&2
  exit 0
}
AA_FLAX_VENV=$tests/../.venv-cuda
AA_FLAX_REQUIREMENTS=$(mktemp)
trap 'rm "$AA_FLAX_REQUIREMENTS"' EXIT
{
  grep -vE '^(jax|jaxlib)==' "$tests/../requirements.txt"
  echo "jax==$jax"
  echo "jaxlib==$jax"
} >"$AA_FLAX_REQUIREMENTS"
source "$tests/../experiments/environment.sh"
cd "$root"
if ! "$python" -c 'import jax_plugins.xla_cuda13' 2>/dev/null; then
  # No other wheel of NVIDIA is needed to compile.
  install --no-deps "jax-cuda13-plugin==$jax" "jax-cuda13-pjrt==$jax"
fi
export PYTHONDONTWRITEBYTECODE= # the workers import the same files
# Only the files with such tests are imported. Paths have no spaces.
files=$(grep -rl --include='test_*.py' 'pytest\.mark\.h100' tests | sort)
# shellcheck disable=SC2086
"$python" -m pytest --numprocesses=auto --dist=loadfile --no-loadscope-reorder -m "h100 and not slow" "$@" $files
