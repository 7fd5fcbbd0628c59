#!/usr/bin/env bash
# Trains a config on a Cloud TPU slice: requests the slice, installs, trains on every host, goes on after interruptions,
# copies the results here, and deletes the slice, whatever happened. README.md beside this file explains it.
#
#   bash experiments/cloud/tpu.sh --config CONFIG --workdir WORKDIR --type TYPE --zone ZONE [more] [-- FLAGS]
#
#   --config CONFIG     a config of this repository, as committed
#   --workdir WORKDIR   run directory: gs://BUCKET/PATH, or a path that all hosts share and that outlives the slice
#   --type TYPE         accelerator type, for example v5litepod-8 or v5litepod-256
#   --zone ZONE         for example us-west4-a
#   --project PROJECT   default: the one that gcloud is set to
#   --name NAME         of the slice; default: aa-flax- and the name of the config
#   --version VERSION   of the slice's software; default: by type
#   --spot              costs less and may be taken away; then another is requested, and the run goes on there
#   --results DIR       for results and log; default: runs/cloud/NAME
#   --attempts N        end when training has broken off N times in a row, each time within ten minutes; default: 5
#   --poll SECONDS      between two looks at a slice that is not ready, a whole number; default: 30
#   --keep              do not delete the slice, which costs money as long as it is there
#   --dry-run           print the commands of an undisturbed run; run none
#   -- FLAGS            for aa_flax.train, for example --config.epochs=1; a value may be gs://BUCKET/PATH too
#
# The same command again takes over a slice of that name. The exit code is that of training; 1 for everything else;
# 130, 143 or 129 after Ctrl-C, SIGTERM or SIGHUP, for which the training saves first.
set -euo pipefail

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." >/dev/null && pwd)
config='' workdir='' type='' zone='' project='' name='' version='' results='' attempts=5 poll=30
spot=false keep=false dry_run=false flags=()
requested=false was_active=false installed=false # what there is to delete, and to build on
step='' state='' attempt=1 failures=0 child='' interrupted=''

fail() {
  echo "error: $*" >&2
  exit 1
}

read_arguments() {
  while [ $# -gt 0 ]; do
    case $1 in
      --) flags=("${@:2}") && break ;;
      --*=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;;
    esac
    case $1 in
      --spot) spot=true ;;
      --keep) keep=true ;;
      --dry-run) dry_run=true ;;
      --help | -h) sed -n '2,/^set/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" && exit 0 ;;
      --config | --workdir | --type | --zone | --project | --name | --version | --results | --attempts | --poll)
        [ -n "${2:-}" ] || fail "$1 needs a value"
        printf -v "${1#--}" %s "$2" && shift
        ;;
      *) fail "unknown argument $1; flags of aa_flax.train come after --" ;;
    esac
    shift
  done
}

check_arguments() {
  [ -n "$config" ] && [ -n "$workdir" ] && [ -n "$type" ] && [ -n "$zone" ] ||
    fail "--config, --workdir, --type and --zone are needed; --help says what they are"
  case $workdir in
    gs://*/*) ;;
    /*) echo "note: all hosts must share $workdir, and it must outlive the slice" >&2 ;;
    *) fail "--workdir is $workdir; it must be gs://BUCKET/PATH or an absolute path" ;;
  esac
  git -C "$root" cat-file -e "HEAD:${config%%:*}" 2>/dev/null || fail "--config ${config%%:*} is not in the last commit"
  case $attempts$poll in *[!0-9]*) fail "--attempts and --poll are whole numbers" ;; esac
  if [ -z "$version" ]; then
    case $type in
      v6e-*) version=v2-alpha-tpuv6e ;;
      v5p-*) version=v2-alpha-tpuv5 ;;
      v5litepod-*) version=v2-alpha-tpuv5-lite ;;
      v[234]-*) version=tpu-ubuntu2204-base ;;
      *) fail "no software version is known for $type; choose one with --version" ;;
    esac
  fi
  local short=${config##*/}
  : "${name:=aa-flax-$(printf %s "${short/.py/}" | tr '[:upper:]' '[:lower:]' | tr -cs '[:alnum:]' -)}"
  case $name in [!a-z]* | *[!a-z0-9-]* | *-) fail "--name is '$name'; Cloud takes small letters, digits and -" ;; esac
  : "${results:=$root/runs/cloud/$name}"
}

say() {
  $dry_run || printf '%s tpu.sh: %s\n' "$(date '+%F %T')" "$*" | tee -a "$results/tpu.log" >&2 || true
}

quoted() { # the words as a shell reads them, each after a space
  local word
  for word in "$@"; do
    case $word in
      '' | *[!A-Za-z0-9_./:=,@%+-]*) printf " '%s'" "$(printf %s "$word" | sed "s/'/'\\\\''/g")" ;;
      *) printf ' %s' "$word" ;;
    esac
  done
}

run() { # in the background, because bash acts on a signal at once while it waits, but not during a command
  local code=0
  [ -z "$interrupted" ] || exit "$interrupted"
  "$@" </dev/null &
  child=$!
  wait "$child" || code=$?
  # A request that a signal cut off could outlive its deletion.
  [ -z "$interrupted" ] || [ "$step" != requesting ] || wait "$child" || code=$?
  child=''
  [ -z "$interrupted" ] || exit "$interrupted"
  return "$code"
}

end_child() {
  [ -z "$child" ] || [ "$step" = requesting ] || { pkill -TERM -P "$child"; kill -TERM "$child"; } 2>/dev/null || true
}

tpus() { # every call of gcloud: tpus logged|quietly COMMAND...
  local command=(gcloud compute tpus "${@:2}" --zone="$zone" ${project:+--project="$project"} --quiet)
  if $dry_run; then quoted "${command[@]}" | cut -c 2-; else run "$1" "${command[@]}"; fi
}

logged() { "$@" 2>&1 | tee "$results/launch/output" | tee -a "$results/tpu.log"; }
quietly() { "$@" >"$results/launch/state" 2>"$results/launch/errors"; }

on_hosts() { # on_hosts all|0 COMMAND...: what host.sh does with the command
  tpus logged tpu-vm ssh "$name" --worker="$1" --command="bash aa_flax/experiments/cloud/host.sh$(quoted "${@:2}")"
}

look() { # sets state: the slice's, or ABSENT, or UNKNOWN where gcloud could not say; $1 in a dry run
  if tpus quietly queued-resources describe "$name" '--format=value(state.state)'; then
    if $dry_run; then state=$1; else state=$(tail -n 1 "$results/launch/state"); fi
  elif grep -q NOT_FOUND "$results/launch/errors"; then
    state=ABSENT
  else
    state=UNKNOWN
    say "gcloud could not describe $name: $(tail -n 1 "$results/launch/errors")"
  fi
}

request() {
  step=requesting
  look ABSENT
  case $state in
    ABSENT) ;;
    UNKNOWN) return 1 ;;
    SUSPENDED | FAILED) remove || return ;; # left by an earlier launch
    *) requested=true && say "taking over $name" && return ;;
  esac
  say "requesting $name: $type in $zone"
  requested=true # there may be something to delete even if this fails
  local command=(create "$name" --node-id="$name" --accelerator-type="$type" --runtime-version="$version")
  ! $spot || command+=(--spot)
  tpus logged queued-resources "${command[@]}"
}

await_active() {
  local before='' unknown=0
  step=waiting
  while true; do
    look ACTIVE
    [ "$state" = "$before" ] || say "$name is $state"
    before=$state
    case $state in
      ACTIVE) was_active=true && return ;;
      SUSPENDED | FAILED | ABSENT) return 1 ;;
      UNKNOWN) unknown=$((unknown + 1)) && [ "$unknown" -lt 10 ] || return 1 ;;
      *) unknown=0 ;;
    esac
    run sleep "$poll"
  done
}

install() {
  local unpack='rm -rf aa_flax && mkdir aa_flax && tar -xzf source.tar.gz -C aa_flax'
  step=installing
  say "installing on all hosts"
  tpus logged tpu-vm scp "$results/launch/source.tar.gz" "$name:" --worker=all || return
  tpus logged tpu-vm ssh "$name" --worker=all \
    --command="$unpack && bash aa_flax/experiments/cloud/host.sh install" || return
  installed=true
}

go() { # up to the end of training, from wherever it stands
  $requested || request || return
  await_active || return
  $installed || install || return
  step=training
  say "training, attempt $attempt"
  began=$SECONDS
  on_hosts all train "$attempt" --config="$config" --workdir="$workdir" ${flags[@]+"${flags[@]}"}
}

recover() { # after `go` ended with code $1: prepares for another go, or ends the script
  look ACTIVE
  while [ "$state" = SUSPENDING ]; do
    run sleep "$poll"
    look SUSPENDED
  done
  case $state in
    SUSPENDED) say "the slice was taken away" && remove || exit 1 ;;
    FAILED)
      $was_active || give_up "the request has failed; gcloud compute tpus queued-resources describe says why"
      remove || exit 1
      ;;
    ABSENT)
      $was_active && [ "$step" = requesting ] || give_up "$name could not be requested, or somebody deleted it"
      requested=false
      ;;
    UNKNOWN) $was_active || give_up "gcloud does not work here" ;;
    *)
      if [ "$step" != training ] || ! grep -q "attempt $attempt of the training ended" "$results/launch/output"; then
        say "$step broke off with code $1" # the connection, say: the training may well go on, and is joined again
      elif [ "$1" = 75 ] || [ "$1" = 76 ]; then
        say "training ended with code $1: the same command again"
        attempt=$((attempt + 1))
      else
        give_up "training failed with code $1" "$1"
      fi
      ;;
  esac
  if [ "$step" = training ] && [ $((SECONDS - began)) -ge 600 ]; then failures=0; else failures=$((failures + 1)); fi
  [ "$failures" -lt "$attempts" ] || give_up "broke off $failures times in a row" "$1"
  [ "$failures" = 0 ] || run sleep $((poll << (failures < 5 ? failures - 1 : 4)))
}

give_up() { # give_up REASON [CODE]
  say "$1"
  [ "$state" != ACTIVE ] || fetch || true
  exit "${2:-1}"
}

fetch() {
  say "copying the results to $results"
  on_hosts 0 results "$workdir" || return 1
  tpus logged tpu-vm scp "$name:aa_flax-results.tar.gz" "$results/launch/" --worker=0 || return 1
  $dry_run || tar -xzf "$results/launch/aa_flax-results.tar.gz" -C "$results"
}

remove() {
  local try
  for try in 1 2 3; do
    say "deleting $name"
    if tpus logged queued-resources delete "$name" --force || { look ABSENT && [ "$state" = ABSENT ]; }; then
      requested=false installed=false
      return 0 # a bare return in a trap gives the status from before the trap
    fi
    [ "$try" = 3 ] || run sleep "$poll"
  done
  return 1
}

finish() { # at every exit
  local code=$? skip=false
  set +e # nothing may come between a slice and its deletion
  trap 'skip=true; end_child' INT TERM HUP
  if [ -n "$interrupted" ] && [ "$step" = training ]; then
    interrupted=''
    say "the training saves; a second signal skips this"
    on_hosts all stop
    $skip || fetch
  fi
  interrupted=''
  trap '' INT TERM HUP PIPE
  if $requested && ! $keep; then remove || code=1; fi
  ! $requested || say "$name IS NOT DELETED and may cost money until you do:" \
    "gcloud compute tpus queued-resources delete $name --force --zone=$zone ${project:+--project=$project}"
  exit "$code"
}

read_arguments "$@"
check_arguments
if ! $dry_run; then
  mkdir -p "$results/launch"
  [ -z "$(git -C "$root" status --porcelain)" ] || say "there are uncommitted changes; what is committed is what trains"
  git -C "$root" archive --format=tar.gz HEAD >"$results/launch/source.tar.gz"
fi
trap finish EXIT
trap 'interrupted=130; end_child' INT
trap 'interrupted=143; end_child' TERM
trap 'interrupted=129; end_child' HUP
until go; do recover $?; done
fetch || fetch || fetch || fail "the run has finished, but its results could not be copied"
