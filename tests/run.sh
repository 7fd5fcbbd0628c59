#!/usr/bin/env bash
# Runs the tests on all cores, setting up the environment if need be, and says how long they took. Arguments go to
# pytest, for example -k attention, or -m thorough for what .ci/run runs besides.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../experiments/environment.sh"

# libtpu compiles for TPUs that are not there. It lies outside the environment's packages, because JAX would try it in
# every program. Without it the tests that need it skip.
export TPU_LIBRARY_PATH=${TPU_LIBRARY_PATH:-$venv/libtpu/libtpu/libtpu.so}
if [ ! -e "$TPU_LIBRARY_PATH" ] && [ "$(uname -sm)" = "Linux x86_64" ]; then
  wanted=$("$python" -c 'import sys; print("libtpu==0.0.42.1" if sys.version_info < (3, 12) else "libtpu==0.0.51")')
  install --no-deps --target "$venv/libtpu" "$wanted" || echo "libtpu could not be installed; its tests skip" >&2
fi
[ -e "$TPU_LIBRARY_PATH" ] || unset TPU_LIBRARY_PATH
cd "$root"
export PYTHONDONTWRITEBYTECODE= # dozens of processes import the library
SECONDS=0 status=0
# A file's tests share compiled programs and set-up, so a file goes to one worker.
"$python" -m pytest --numprocesses=auto --dist=loadfile --no-loadscope-reorder "$@" || status=$?
echo "the tests took $((SECONDS / 60)) min $((SECONDS % 60)) s on $(nproc 2>/dev/null || echo some) cores"
exit "$status"
