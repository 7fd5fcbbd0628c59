"""Stub of `gcloud compute tpus` and `gcloud storage rsync` for test_cloud.py; it follows a script, without a network.

The folder $STUB holds `script.json`:
    lives: the states of each slice that is requested, in order
    hosts: how many hosts a slice has
    create, delete: exit codes of the first calls, 0 to let them happen
    create_seconds: how long a request takes
    train: exit codes of the first connections to a training, which break off

`states.json` holds the remaining states of the existing slice: each `describe` advances it by one state, up to the
last. `calls.jsonl` gets every call. A host is a folder that is its own HOME, where ssh gives the command to a shell, as
the real one does.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

STUB = Path(os.environ["STUB"])
SCRIPT = json.loads((STUB / "script.json").read_text())
STATES = STUB / "states.json"
HOSTS = STUB / "hosts"


def fail(message, code=1):
    print(f"ERROR: (gcloud.compute.tpus) {message}", file=sys.stderr)
    sys.exit(code)


def scripted(verb):
    """Return the next exit code that the script has for a verb, or None."""
    file = STUB / f"{verb}.count"
    count = int(file.read_text()) if file.exists() else 0
    file.write_text(str(count + 1))
    codes = SCRIPT.get(verb, [])
    return codes[count] if count < len(codes) else None


def states():
    if not STATES.exists():
        fail("NOT_FOUND: Resource was not found")
    return json.loads(STATES.read_text())


def create(arguments):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the request has been sent even if gcloud is killed
    time.sleep(SCRIPT.get("create_seconds", 0))
    if code := scripted("create"):
        fail("RESOURCE_EXHAUSTED: no quota", code)
    if STATES.exists():
        fail("ALREADY_EXISTS")
    lives = SCRIPT["lives"]
    life = len(list(STUB.glob("life-*")))
    (STUB / f"life-{life}").touch()
    STATES.write_text(json.dumps(lives[min(life, len(lives) - 1)]))
    for worker in range(SCRIPT.get("hosts", 1)):
        (HOSTS / str(worker)).mkdir(parents=True)


def describe(arguments):
    left = states()
    print(left[0])
    if len(left) > 1 and left[0] != "ACTIVE":  # ACTIVE lasts until something happens to it
        STATES.write_text(json.dumps(left[1:]))


def delete(arguments):
    if code := scripted("delete"):
        fail("INTERNAL: try again", code)
    if states()[0] == "ACTIVE" and "--force" not in arguments:
        fail("FAILED_PRECONDITION: it has nodes; use --force")
    STATES.unlink()
    for training in HOSTS.glob("*/aa_flax-attempts/training"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(training.read_text()), signal.SIGKILL)
    shutil.rmtree(HOSTS)


def workers(arguments):
    if states()[0] != "ACTIVE":
        fail("the TPU is in an unusable state")
    flag = next(a for a in arguments if a.startswith("--worker=")).removeprefix("--worker=")
    return sorted(HOSTS.iterdir()) if flag == "all" else [HOSTS / flag]


def ssh(arguments):
    hosts = workers(arguments)
    command = next(a for a in arguments if a.startswith("--command=")).removeprefix("--command=")
    processes = [subprocess.Popen(["bash", "-c", command], cwd=h, env={**os.environ, "HOME": str(h)}) for h in hosts]
    if code := (scripted("train") if "host.sh train" in command else None):  # the connection is lost
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.5)
            process.kill()
        sys.exit(code)
    codes = [process.wait() for process in processes]
    if not STATES.exists() or states()[0] != "ACTIVE":  # the slice is gone during the connection
        sys.exit(255)
    sys.exit(next((code for code in codes if code), 0))


def scp(arguments):
    source, target = (a for a in arguments if not a.startswith("--"))
    for host in workers(arguments):
        here, there = (host / path.partition(":")[2] if ":" in path else path for path in (source, target))
        shutil.copy(here, there)


def rsync(arguments):
    source, target = (a for a in arguments if not a.startswith("--"))
    source = STUB / "buckets" / source.removeprefix("gs://")
    if not source.is_dir():
        fail("Did not find existing container")
    for file in source.iterdir():
        if file.is_file():
            shutil.copy(file, target)


if sys.argv[1:3] == ["storage", "rsync"]:
    rsync(sys.argv[3:])
    sys.exit()
with (STUB / "calls.jsonl").open("a") as log:
    log.write(json.dumps(sys.argv[1:]) + "\n")
verbs = {"create": create, "describe": describe, "delete": delete, "ssh": ssh, "scp": scp}
assert sys.argv[1:3] == ["compute", "tpus"] and "--quiet" in sys.argv and "--zone=us-west4-a" in sys.argv, sys.argv
assert sys.argv[3] == ("tpu-vm" if sys.argv[4] in ("ssh", "scp") else "queued-resources"), sys.argv
verbs[sys.argv[4]](sys.argv[5:])
