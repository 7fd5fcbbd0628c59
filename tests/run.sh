#!/usr/bin/env bash
# Runs the tests, setting up the environment if need be; arguments go to pytest, for example -k attention or -m slow.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../experiments/environment.sh"

# libtpu compiles for TPUs that are not there. It lies outside the environment's packages, because JAX would try it in
# every program. Without it the tests that need it skip.
export TPU_LIBRARY_PATH=${TPU_LIBRARY_PATH:-$root/.venv/libtpu/libtpu/libtpu.so}
if [ ! -e "$TPU_LIBRARY_PATH" ] && [ "$(uname -sm)" = "Linux x86_64" ]; then
  wanted=$("$python" -c 'import sys; print("libtpu==0.0.42.1" if sys.version_info < (3, 12) else "libtpu==0.0.51")')
  install --no-deps --target "$root/.venv/libtpu" "$wanted" || echo "libtpu could not be installed; its tests skip" >&2
fi
[ -e "$TPU_LIBRARY_PATH" ] || unset TPU_LIBRARY_PATH
cd "$root"
exec "$python" -m pytest "$@"
