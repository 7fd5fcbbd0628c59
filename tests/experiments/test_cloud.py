"""Tests of the launch on Cloud TPU with a stub of gcloud; they do not reach a cloud and do not show what it does."""

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from aa_flax.analysis.provenance import ROOT
from aa_flax.runs.exits import LOST, SAVED

CLOUD = ROOT / "experiments" / "cloud"
HERE = Path(__file__).parent
ARGUMENTS = ("--config=experiments/tiny.py", "--workdir=gs://bucket/runs/tiny", "--type=v5litepod-16")
READY = ["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]

# Replaces aa_flax.train on the hosts: its n-th start on a host does what script.json says for that start.
TRAIN = """
import json, os, signal, sys, time
from pathlib import Path

def save(*_):
    metrics.open("a").write("saved\\n")
    os._exit(75)

stub, host = Path(os.environ["STUB"]), Path.home().name
flags = dict(flag[2:].split("=", 1) for flag in sys.argv[1:])
workdir = Path(flags["workdir"].replace("gs:/", f"{stub}/buckets"))
workdir.mkdir(parents=True, exist_ok=True)
metrics = workdir / "metrics.jsonl" if host == "0" else Path(os.devnull)
signal.signal(signal.SIGTERM, save)
starts = stub / f"starts-{host}"
act = json.loads((stub / "script.json").read_text())["training"]
act = act[len(starts.read_text().splitlines()) if starts.exists() else 0]
metrics.open("a").write("started\\n")
print(f"host {host} trains", flush=True)
starts.open("a").write(json.dumps([os.environ["AA_FLAX_DISTRIBUTED"], *sys.argv[1:]]) + "\\n")
if act == "preempted":
    (stub / "states.json").write_text('["SUSPENDING", "SUSPENDED"]')
    save()
if act == "hang":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if act in ("wait", "hang"):
    time.sleep(30)
if act == "slow":
    time.sleep(1)
    act = 0
for name in ("config.json", "result.json", "learning_curves.png", "checkpoints/1/array"):
    (workdir / name).parent.mkdir(parents=True, exist_ok=True)
    (workdir / name).write_text(name)
sys.exit(act)
"""

UV = f"""#!/bin/sh
echo "$@" >>"$STUB/uv"
[ "$1" = venv ] || exit 0
for folder; do :; done
mkdir -p "$folder/bin"
printf '#!/bin/sh\\nexec {sys.executable} -S "$@"\\n' >"$folder/bin/python"
chmod +x "$folder/bin/python"
"""

GCSFUSE = """#!/bin/sh
while [ $# -gt 2 ]; do shift; done
mkdir -p "$STUB/buckets/$1"
[ -L "$2" ] || { rmdir "$2" && ln -s "$STUB/buckets/$1" "$2"; }
"""


@dataclasses.dataclass
class Cloud:
    """A checkout from which to launch, and the folder of the stub."""

    checkout: Path
    folder: Path
    environment: dict[str, str]

    def script(self, **script) -> None:
        (self.folder / "script.json").write_text(json.dumps({"lives": [READY], "training": [0], **script}))

    def command(self, *arguments: str) -> list[str]:
        options = [*ARGUMENTS, "--zone=us-west4-a", "--poll=0", f"--results={self.results}", *arguments]
        return ["bash", str(self.checkout / "experiments" / "cloud" / "tpu.sh"), *options]

    def launch(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = self.command(*arguments)
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60, check=False)

    @contextlib.contextmanager
    def running(self, *arguments: str, until: Callable[[], bool]) -> Iterator[subprocess.Popen[bytes]]:
        """Start a launch, wait until `until()` is true, and yield its process."""
        # A process started in the background ignores SIGINT, and one started by nohup SIGHUP; pytest may be such a
        # process, and its children inherit this. `env` restores the default.
        process = subprocess.Popen(
            ["env", "--default-signal=INT,TERM,HUP", *self.command(*arguments)],
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            deadline = time.monotonic() + 30
            while not until():
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.05)
            yield process
        finally:
            process.kill()
            process.wait()

    @property
    def results(self) -> Path:
        return self.folder / "results"

    @property
    def metrics(self) -> list[str]:
        return (self.folder / "buckets" / "bucket" / "runs" / "tiny" / "metrics.jsonl").read_text().splitlines()

    def calls(self, verb: str) -> list[list[str]]:
        calls = self.folder / "calls.jsonl"
        rows = [json.loads(row) for row in calls.read_text().splitlines()] if calls.exists() else []
        return [row for row in rows if row[3] == verb]

    def starts(self, host: int = 0) -> list[list[str]]:
        """Return the environment and the arguments of each start of the training on a host."""
        starts = self.folder / f"starts-{host}"
        return [json.loads(row) for row in starts.read_text().splitlines()] if starts.exists() else []

    @property
    def asked_to_stop(self) -> bool:
        return any("host.sh stop" in argument for call in self.calls("ssh") for argument in call)

    @property
    def slice_is_there(self) -> bool:
        return (self.folder / "states.json").exists()


def write_program(file: Path, text: str) -> None:
    file.write_text(text)
    file.chmod(0o755)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkout")
    shutil.copytree(CLOUD, folder / "experiments" / "cloud")
    (folder / "aa_flax").mkdir()
    files = {"experiments/tiny.py": "", "aa_flax/__init__.py": "", "aa_flax/train.py": TRAIN, "requirements.txt": ""}
    for name, text in files.items():
        (folder / name).write_text(text)
    git = ["git", "-C", str(folder), "-c", "user.name=test", "-c", "user.email=test@example.org"]
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message=all"]):
        subprocess.run([*git, *command], check=True)
    return folder


@pytest.fixture
def cloud(checkout, tmp_path):
    programs = tmp_path / "bin"
    programs.mkdir()
    write_program(programs / "gcloud", f'#!/bin/sh\nexec {sys.executable} -S {HERE / "stub_gcloud.py"} "$@"\n')
    write_program(programs / "uv", UV)
    write_program(programs / "gcsfuse", GCSFUSE)
    environment = {"PATH": f"{programs}:{os.environ['PATH']}", "STUB": str(tmp_path), "HOME": str(tmp_path)}
    cloud = Cloud(checkout, tmp_path, environment)
    cloud.script()
    return cloud


@pytest.mark.parametrize("script", ["tpu.sh", "host.sh"])
def test_shellcheck(script):
    beside = Path(sys.executable).with_name("shellcheck")
    shellcheck = beside if beside.exists() else shutil.which("shellcheck")
    if shellcheck is None:
        pytest.skip('shellcheck is not installed; the extra "dev" brings it')
    done = subprocess.run([shellcheck, CLOUD / script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_dry_run_prints_what_is_stored_and_does_nothing(cloud):
    flags = ["--", "--config.epochs=1", "--config.label=it's a label"]
    done = cloud.launch("--spot", "--project=mine", "--results=results", "--dry-run", *flags)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (HERE / "tpu_dry_run.txt").read_text()
    assert not (cloud.folder / "calls.jsonl").exists()


def test_from_the_request_to_the_deletion(cloud):
    cloud.script(hosts=3)
    done = cloud.launch("--", "--config.epochs=1")
    assert done.returncode == 0, done.stderr
    (create,) = cloud.calls("create")
    assert create[4:] == [
        "aa-flax-tiny",
        "--node-id=aa-flax-tiny",
        "--accelerator-type=v5litepod-16",
        "--runtime-version=v2-alpha-tpuv5-lite",
        "--zone=us-west4-a",
        "--quiet",
    ]
    for host in range(3):
        workdir = "--workdir=gs://bucket/runs/tiny"
        assert cloud.starts(host) == [["1", "--config=experiments/tiny.py", workdir, "--config.epochs=1"]]
        assert f"host {host} trains" in done.stdout
        assert f"host {host} trains" in (cloud.results / "tpu.log").read_text()
    copied = {file.name for file in cloud.results.iterdir()}
    assert copied == {"config.json", "result.json", "metrics.jsonl", "learning_curves.png", "tpu.log", "launch"}
    assert (cloud.folder / "uv").read_text().count("--compile-bytecode") == 3
    assert not cloud.slice_is_there


def test_a_spot_slice_that_is_taken_away_is_replaced_and_the_run_goes_on(cloud):
    cloud.script(training=["preempted", "preempted", 0], hosts=2)
    done = cloud.launch("--spot")
    assert done.returncode == 0, done.stderr
    assert len(cloud.calls("create")) == len(cloud.calls("delete")) == 3
    assert all("--spot" in call for call in cloud.calls("create"))
    assert cloud.metrics == ["started", "saved", "started", "saved", "started"]
    assert len({tuple(start) for start in cloud.starts()}) == 1  # the same command each time
    assert not cloud.slice_is_there


@pytest.mark.few(0, thorough=1)
@pytest.mark.parametrize("code", [SAVED, LOST])
def test_training_that_asks_for_it_is_run_again_on_the_same_slice(cloud, code):
    cloud.script(training=[code, code, 0])
    done = cloud.launch()
    assert done.returncode == 0, done.stderr
    assert len(cloud.starts()) == 3
    assert len(cloud.calls("create")) == len(cloud.calls("delete")) == 1
    assert (cloud.folder / "uv").read_text().count("venv --quiet") == 1


@pytest.mark.thorough
def test_training_goes_on_while_the_connection_is_lost(cloud):
    cloud.script(training=["slow"], train=[255])
    done = cloud.launch()
    assert done.returncode == 0, done.stderr
    assert len(cloud.starts()) == 1
    assert (cloud.results / "result.json").exists()


def test_a_failure_of_training_ends_it_with_its_code(cloud):
    cloud.script(training=[3])
    done = cloud.launch()
    assert done.returncode == 3
    assert len(cloud.starts()) == 1
    assert "training failed with code 3" in done.stderr
    assert (cloud.results / "metrics.jsonl").exists()
    assert not cloud.slice_is_there


@pytest.mark.thorough
def test_training_that_breaks_off_again_and_again_ends_it(cloud):
    cloud.script(training=[76] * 9)
    assert cloud.launch("--attempts=3").returncode == 76
    assert len(cloud.starts()) == 3
    assert not cloud.slice_is_there


def test_a_request_that_is_refused_ends_it(cloud):
    cloud.script(create=[1])
    done = cloud.launch()
    assert done.returncode == 1
    assert "RESOURCE_EXHAUSTED" in done.stdout
    assert "could not be requested" in done.stderr
    assert not cloud.calls("ssh")


@pytest.mark.thorough
def test_a_request_that_is_refused_after_a_preemption_is_tried_again(cloud):
    cloud.script(create=[0, 1], training=["preempted", 0])
    done = cloud.launch("--spot")
    assert done.returncode == 0, done.stderr
    assert len(cloud.calls("create")) == 3


def test_a_request_that_fails_in_the_queue_ends_it_and_is_deleted(cloud):
    cloud.script(lives=[["WAITING_FOR_RESOURCES", "FAILED"]])
    assert cloud.launch().returncode == 1
    assert not cloud.calls("ssh")
    assert not cloud.slice_is_there


@pytest.mark.few
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_saves_the_training_and_deletes_the_slice(cloud, number, code):
    cloud.script(training=["wait"])
    with cloud.running(until=lambda: bool(cloud.starts())) as process:
        process.send_signal(number)
        assert process.wait(timeout=90) == code
    assert cloud.metrics == ["started", "saved"]
    assert (cloud.results / "metrics.jsonl").exists()
    assert not cloud.slice_is_there


def test_a_signal_in_the_queue_deletes_the_request(cloud):
    cloud.script(lives=[["WAITING_FOR_RESOURCES"]])
    with cloud.running("--poll=60", until=lambda: len(cloud.calls("describe")) == 2) as process:
        process.terminate()
        assert process.wait(timeout=90) == 143
    assert cloud.calls("create") and not cloud.slice_is_there


@pytest.mark.thorough
def test_a_second_signal_does_not_wait_for_the_training(cloud):
    cloud.script(training=["hang"])
    with cloud.running(until=lambda: bool(cloud.starts())) as process:
        time.sleep(0.2)  # the training stops listening to signals
        process.terminate()
        while not cloud.asked_to_stop:
            time.sleep(0.05)
        process.terminate()
        assert process.wait(timeout=90) == 143
    assert not cloud.slice_is_there


@pytest.mark.thorough
def test_a_signal_during_the_request_does_not_leave_a_slice_behind(cloud):
    cloud.script(create_seconds=1)
    with cloud.running(until=lambda: bool(cloud.calls("create"))) as process:
        process.terminate()
        assert process.wait(timeout=90) == 143
    time.sleep(1)
    assert len(cloud.calls("delete")) == 1 and not cloud.slice_is_there


def test_flags_reach_the_training_unchanged(cloud):
    flags = ["--config.label=two  words", "--a=it's", '--b="$HOME" `id` \\', "--c=", "--d=*;&|<>#~!", "--e=a\nb"]
    done = cloud.launch("--", *flags)
    assert done.returncode == 0, done.stderr
    assert cloud.starts()[0][3:] == flags


@pytest.mark.thorough
def test_buckets_in_other_flags_are_mounted(cloud):
    done = cloud.launch("--", "--config.data.data_dir=gs://data/tfds", "--other=s3://data/tfds")
    assert done.returncode == 0, done.stderr
    folder = f"--config.data.data_dir={cloud.folder}/hosts/0/buckets/data/tfds"
    assert cloud.starts()[0][3:] == [folder, "--other=s3://data/tfds"]


@pytest.mark.thorough
def test_a_kept_slice_is_taken_over_by_the_same_command(cloud):
    cloud.script(training=[75, 0, 0])
    done = cloud.launch("--keep")
    assert done.returncode == 0, done.stderr
    assert "NOT DELETED" in done.stderr
    assert cloud.slice_is_there
    assert cloud.launch().returncode == 0
    assert len(cloud.calls("create")) == 1
    assert len(cloud.starts()) == 3
    assert not cloud.slice_is_there


@pytest.mark.thorough
def test_a_launch_that_was_killed_is_taken_over_with_its_training(cloud):
    cloud.script(training=["wait", 0])
    with cloud.running(until=lambda: bool(cloud.starts())) as process:
        process.kill()
    assert cloud.slice_is_there
    done = cloud.launch()
    assert done.returncode == 0, done.stderr
    assert cloud.metrics == ["started", "saved", "started"]
    assert not cloud.slice_is_there


@pytest.mark.thorough
def test_a_deletion_that_fails_is_tried_again(cloud):
    cloud.script(delete=[1, 1])
    assert cloud.launch().returncode == 0
    assert not cloud.slice_is_there


def test_a_slice_that_cannot_be_deleted_is_an_error(cloud):
    cloud.script(delete=[1, 1, 1])
    done = cloud.launch()
    assert done.returncode == 1
    assert "gcloud compute tpus queued-resources delete aa-flax-tiny --force --zone=us-west4-a" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config=experiments/other.py"], "experiments/other.py is not in the last commit"),
        (["--workdir=runs/mine"], "must be gs://BUCKET/PATH or an absolute path"),
        (["--type=v99-8"], "choose one with --version"),
        (["--poll=soon"], "whole numbers"),
        (["--zone="], "--zone needs a value"),
        (["--config.epochs=1"], "flags of aa_flax.train come after --"),
    ],
)
def test_wrong_arguments_end_in_one_line(cloud, arguments, message):
    done = cloud.launch(*arguments)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and message in done.stderr
    assert not (cloud.folder / "calls.jsonl").exists()


def test_sky_yaml():
    task = yaml.safe_load((CLOUD / "sky.yaml").read_text())
    assert task["resources"]["job_recovery"]["recover_on_exit_codes"] == [SAVED, LOST]
    assert set(task["file_mounts"]) == {"/bucket"}
    for part in ("setup", "run"):
        subprocess.run(["bash", "-n", "-c", task[part]], check=True)
    assert "AA_FLAX_DISTRIBUTED=1" in task["run"] and '--workdir="gs://$BUCKET/runs/$RUN"' in task["run"]


@pytest.mark.parametrize(("codes", "expected"), [([75, 76, 75, 0], 0), ([76, 3, 0], 3)])
def test_the_loop_of_the_guide(tmp_path, codes, expected):
    guide = (CLOUD / "README.md").read_text()
    (loop,) = (block.split("\n", 1)[1] for block in guide.split("```") if "\nuntil " in block)
    (tmp_path / "codes").write_text("\n".join(map(str, codes)) + "\n")
    python = '#!/bin/sh\ncode=$(head -n 1 codes)\nsed -i 1d codes\nexit "$code"\n'
    write_program(tmp_path / "python", python)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", loop], cwd=tmp_path, env=environment, check=False)
    assert done.returncode == expected
