#!/usr/bin/env bash
# Prints the path of a Python 3.12: the one that PYTHON312 names, or one on the PATH or of pyenv.
for candidate in ${PYTHON312:-} python3.12 python3 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.12*/bin/python; do
  if "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 12))' 2>/dev/null; then
    command -v "$candidate"
    exit 0
  fi
done
echo "no Python 3.12 found (PYTHON312 names one)" >&2
exit 1
