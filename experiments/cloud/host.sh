#!/usr/bin/env bash
# What every host of a slice does. tpu.sh sends the repository there and calls this over ssh.
#
#   host.sh install                 makes ~/aa_flax-venv, with the versions of requirements.txt
#   host.sh train NUMBER FLAGS...   trains, or follows attempt NUMBER if it has begun already; exits with its code
#   host.sh stop                    asks the training to save and end, and waits for that
#   host.sh results WORKDIR         packs the small files of a run into ~/aa_flax-results.tar.gz
#
# A run directory gs://BUCKET/... is written as it is; in other FLAGS it is the bucket mounted under ~/buckets.
set -euo pipefail

source=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." >/dev/null && pwd)
environment=$HOME/aa_flax-venv
attempts=$HOME/aa_flax-attempts # a folder each, with log and exit code; and "training", the last one's process id

install_environment() {
  stop_training # a slice that was kept may still be at it
  rm -rf "$attempts"
  export PATH=$HOME/.local/bin:$PATH
  command -v uv >/dev/null || PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --quiet --user uv
  # The hosts' own Python may be older than 3.11. Every slice gets the same versions, or a resumed run would differ.
  uv venv --quiet --clear --python 3.12 "$environment"
  uv pip install --quiet --compile-bytecode --python "$environment/bin/python" \
    --constraint "$source/requirements.txt" "${source}[tpu,gcs]"
}

install_gcsfuse() {
  local repository key=/usr/share/keyrings/cloud.google.asc
  repository="gcsfuse-$(lsb_release --codename --short)"
  curl --fail --silent --show-error https://packages.cloud.google.com/apt/doc/apt-key.gpg | sudo tee "$key" >/dev/null
  echo "deb [signed-by=$key] https://packages.cloud.google.com/apt $repository main" |
    sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
  # A host that has just started may still be updating itself.
  sudo apt-get --quiet --quiet --option DPkg::Lock::Timeout=600 update
  sudo apt-get --quiet --quiet --yes --option DPkg::Lock::Timeout=600 install gcsfuse
}

mount_bucket() {
  command -v gcsfuse >/dev/null || install_gcsfuse
  mkdir -p "$2"
  gcsfuse --implicit-dirs -o ro "$1" "$2" # data, which nobody changes
}

local_path() { # prints a --flag=path, with gs://BUCKET as the folder where the bucket is mounted, but for the workdir
  local url=${1#*=} bucket folder
  if [[ $url != gs://* || $1 == --workdir=* ]]; then
    printf '%s' "$1"
    return
  fi
  bucket=${url#gs://} && bucket=${bucket%%/*}
  folder=$HOME/buckets/$bucket
  mountpoint --quiet "$folder" || mount_bucket "$bucket" "$folder" >&2
  printf '%s' "${1%"$url"}$folder${url#"gs://$bucket"}"
}

supervise() { # the training in a session of its own: a connection that is lost does not end it
  local attempt=$1 code=0
  shift
  cd "$source"
  AA_FLAX_DISTRIBUTED=1 "$environment/bin/python" -m aa_flax.train "$@" &
  echo $! >"$attempts/training"
  wait $! || code=$?
  echo "$code" >"$attempt/code.part"
  mv "$attempt/code.part" "$attempt/code"
}

train() {
  local number=$1 attempt=$attempts/$1 lines=+1 code flag flags=()
  shift
  for flag in "$@"; do
    flag=$(local_path "$flag") # on a line of its own: a failed mount ends the script
    flags+=("$flag")
  done
  mkdir -p "$attempts"
  if mkdir "$attempt" 2>/dev/null; then
    stop_training # an attempt that nobody was connected to any more
    : >"$attempt/log"
    setsid bash "${BASH_SOURCE[0]}" supervise "$attempt" "${flags[@]}" >>"$attempt/log" 2>&1 </dev/null &
    echo $! >"$attempt/supervisor"
  else
    lines=5 # the rest was shown before
  fi
  tail --lines="$lines" --follow --sleep-interval=0.2 --pid="$(cat "$attempt/supervisor")" "$attempt/log"
  code=$(cat "$attempt/code" 2>/dev/null || echo 76) # no code: the host was restarted
  echo "$(hostname): attempt $number of the training ended with code $code" # tpu.sh looks for this line
  exit "$code"
}

stop_training() {
  local process
  process=$(cat "$attempts/training" 2>/dev/null) || return 0
  grep --quiet --no-messages aa_flax.train "/proc/$process/cmdline" || return 0 # ended; the number may be another's now
  kill -TERM "$process" || return 0
  timeout 60 tail --follow --sleep-interval=0.2 --pid="$process" /dev/null || kill -KILL "$process" || true
}

pack_results() {
  local workdir=$1
  if [[ $workdir == gs://* ]]; then
    workdir=$HOME/aa_flax-results
    rm -rf "$workdir" && mkdir "$workdir"
    # What lies in its sub-folders, checkpoints too, is left out; a run that failed at once has nothing.
    gcloud storage rsync --exclude='.*tfevents.*' "$1" "$workdir" || true
  fi
  mkdir -p "$workdir" # a run that failed at once has none
  cd "$workdir"
  find . -maxdepth 1 -type f \( -name '*.json' -o -name '*.jsonl' -o -name '*.png' -o -name '*.txt' \) -print0 |
    tar --null --files-from=- --create --gzip --file="$HOME/aa_flax-results.tar.gz"
}

command=${1:?install, train, stop or results}
shift
case $command in
  install) install_environment ;;
  train) train "$@" ;;
  supervise) supervise "$@" ;;
  stop) stop_training ;;
  results) pack_results "$@" ;;
  *) echo "error: $command is none of install, train, stop, results" >&2 && exit 2 ;;
esac
