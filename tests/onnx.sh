#!/usr/bin/env bash
# Runs the tests of exports to ONNX in an environment of their own, because jax2onnx needs an older orbax-checkpoint than
# requirements.txt has, and jax 0.10: Python 3.11 with the packages that stand here. Arguments go to pytest, such as -m
# slow for the networks of the papers. PYTHON names the interpreter.
# shellcheck disable=SC1007,SC1091,SC2034,SC2154  # environment.sh reads and sets them
set -euo pipefail
tests=$(CDPATH= cd -- "$(dirname -- "${BASH_SOURCE[0]}")" >/dev/null && pwd)

AA_FLAX_VENV=$tests/../.venv-onnx
AA_FLAX_REQUIREMENTS=$(mktemp)
trap 'rm "$AA_FLAX_REQUIREMENTS"' EXIT
{
  # What requirements.txt has for Python 3.11, on any.
  sed -E -e "/^orbax-checkpoint==/d; /python_full_version >= '3.12'/d" \
    -e "s/ ; python_full_version < '3.12'\$//" "$tests/../requirements.txt"
  printf '%s\n' jax2onnx==0.17.1 onnx==1.23.2 onnx-ir==1.1.0 onnxruntime==1.32.0 orbax-checkpoint==0.11.36
} >"$AA_FLAX_REQUIREMENTS"
source "$tests/../experiments/environment.sh"
cd "$root"
"$python" -m pytest -m "not slow" "$@" tests/inference/test_export_onnx.py
