#!/usr/bin/env bash
# Runs the tests that compile for NVIDIA GPUs, without one, in an environment of their own: Python 3.12, jax 0.11.2 and
# its plugin for CUDA, as machines with a GPU have them. Arguments go to pytest. PYTHON312 names the interpreter.
set -euo pipefail
root=$(CDPATH= cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." >/dev/null && pwd)
cd "$root"
python=$root/.venv312/bin/python
jax=0.11.2

find_python() { # prints a Python 3.12
  local candidate
  for candidate in ${PYTHON312:-} python3.12 python3 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.12*/bin/python; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 12))' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  return 1
}

install() { # packages, as uv and pip share their arguments
  if command -v uv >/dev/null; then
    uv pip install --quiet --compile-bytecode --python "$python" "$@"
  else
    "$python" -m pip install --quiet --disable-pip-version-check "$@"
  fi
}

# The stamp is written last, so an interrupted installation is done again.
wanted="jax $jax; $(cksum <requirements.txt)"
if [ ! -x "$python" ] || [ "$(cat .venv312/stamp 2>/dev/null)" != "$wanted" ]; then
  base=$(find_python) || {
    echo "no Python 3.12 found (PYTHON312 names one): nothing is compiled for GPUs" >&2
    exit 0
  }
  if command -v uv >/dev/null; then
    uv venv --quiet --clear --no-python-downloads --python "$base" .venv312
  else
    "$base" -m venv --clear .venv312
  fi
  others=$(mktemp)
  grep -vE '^(jax|jaxlib)==' requirements.txt >"$others"
  install -r "$others" "jax==$jax" "jaxlib==$jax"
  # No other wheel of NVIDIA is needed to compile.
  install --no-deps "jax-cuda13-plugin==$jax" "jax-cuda13-pjrt==$jax"
  rm "$others"
  echo "$wanted" >.venv312/stamp
fi
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
exec "$python" -m pytest -m h100 "$@"
