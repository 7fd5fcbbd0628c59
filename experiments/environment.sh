# Sourced by quickstart.sh and tests/run.sh: makes .venv in the checkout from requirements.txt, or reuses it, and puts
# its python in $python. Set PYTHON to choose the interpreter that a new environment is made with, AA_FLAX_VENV to make
# it elsewhere, AA_FLAX_REQUIREMENTS to take the packages from another file.

root=$(CDPATH= cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." >/dev/null && pwd)
venv=${AA_FLAX_VENV:-$root/.venv}
requirements=${AA_FLAX_REQUIREMENTS:-$root/requirements.txt}
python=$venv/bin/python

stop() {
  echo "error: $*" >&2
  exit 1
}

supported() { # prints the first interpreter of version 3.11 to 3.14 among the arguments
  local candidate
  for candidate in "$@"; do
    if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  return 1
}

install() { # packages into the environment, or with --target elsewhere; arguments as uv and pip share them
  if command -v uv >/dev/null; then
    UV_COMPILE_BYTECODE=${UV_COMPILE_BYTECODE:-1} uv pip install --quiet --python "$python" "$@"
  else
    "$python" -m pip install --quiet --disable-pip-version-check "$@"
  fi
}

install_requirements() {
  local base
  if [ -n "${PYTHON:-}" ]; then
    base=$(supported "$PYTHON") || stop "PYTHON=$PYTHON is not a Python 3.11 to 3.14; point it at one"
  else
    base=$(supported python3 python3.13 python3.12 python3.11 python3.14) ||
      stop "no Python 3.11 to 3.14 found (python3 is $(python3 --version 2>&1 | head -n 1)); install one, or set PYTHON to it"
  fi
  echo "installing into $venv with $("$base" --version); this is done once" >&2
  if command -v uv >/dev/null; then
    uv venv --quiet --clear --no-python-downloads --python "$base" "$venv" || stop "uv could not make $venv"
  else
    "$base" -m venv --clear "$venv" >/dev/null 2>&1 ||
      stop "$base cannot make virtual environments; install its venv package (Debian: apt install python3-venv) or uv"
  fi
  install -r "$requirements" ||
    stop "the packages of requirements.txt could not be installed; is the package index reachable?"
}

# The stamp is written last, so an interrupted installation is done again.
stamp=$venv/requirements.installed
if [ ! -x "$python" ] || ! cmp -s "$stamp" "$requirements"; then
  install_requirements
  cp "$requirements" "$stamp"
fi
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
