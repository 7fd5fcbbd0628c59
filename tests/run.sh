#!/usr/bin/env bash
# Runs the tests, setting up the environment if need be; arguments go to pytest, for example -k attention or -m slow.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../experiments/environment.sh"
cd "$root"
exec "$python" -m pytest "$@"
