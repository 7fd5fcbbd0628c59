#!/usr/bin/env bash
# Trains the quickstart network from nothing: installs, prepares the data, trains, evaluates, draws.
#
#   bash experiments/quickstart.sh                 results in runs/quickstart
#   bash experiments/quickstart.sh --compare       trains the same network without attention first, prints both
#   bash experiments/quickstart.sh --workdir=DIR --config.epochs=20 ...    any flag of `python -m aa_flax.train`
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

workdir=$root/runs/quickstart
compare=false
flags=()
while [ $# -gt 0 ]; do
  case $1 in
    --compare) compare=true ;;
    --workdir=*) workdir=${1#--workdir=} ;;
    --workdir) workdir=${2:?--workdir needs a folder} && shift ;;
    *) flags+=("$1") ;;
  esac
  shift
done

config=$root/experiments/quickstart.py
workdir=${workdir%/}
if $compare; then
  plain=()
  for flag in ${flags[@]+"${flags[@]}"}; do
    case $flag in
      --config.model.options.*) ;; # of attention, which the plain network has none of
      *) plain+=("$flag") ;;
    esac
  done
  "$python" -m aa_flax.train --config="$config:plain" --workdir="$workdir-plain" ${plain[@]+"${plain[@]}"}
  flags+=("--beside=$workdir-plain")
fi
exec "$python" -m aa_flax.train --config="$config" --workdir="$workdir" ${flags[@]+"${flags[@]}"}
