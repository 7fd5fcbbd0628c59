"""Tests of several processes on one machine: they see and count the same as one process, and end together."""

import dataclasses
import itertools
import json
import signal
import time
from pathlib import Path

import jax
import pytest
from hosts import finish, start
from run_files import arrays, flip

from aa_flax.runs.exits import LOST, SAVED
from aa_flax.runs.hosts import join
from aa_flax.runs.metrics import read_metrics
from aa_flax.training import ConfigError, resolve

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def launch(plain_config, tmp_path, cache):
    """Return a function that starts processes that train, with changed fields of the config."""

    def go(count, workdir, **changes):
        for name, value in changes.items():
            plain_config[name] = value
        file = tmp_path / "config.json"
        file.write_text(json.dumps(dataclasses.asdict(resolve(plain_config))))
        (tmp_path / workdir).mkdir(exist_ok=True)
        return start(count, HERE / "host_child.py", file, tmp_path / workdir, tmp_path / workdir, cache=cache)

    return go


def found(folder, count):
    """Return what the processes recorded: the examples of each step in the order of the whole batch, and the scores."""
    each = [json.loads((folder / f"{count}-{index}.json").read_text()) for index in range(count)]
    assert all(one["confusion"] == each[0]["confusion"] and one["loss"] == each[0]["loss"] for one in each)
    steps = zip(*(one["seen"] for one in each), strict=True)
    return [list(itertools.chain(*parts)) for parts in steps], each[0]


@pytest.mark.parametrize(
    "counts", [pytest.param((2, 2, 1), marks=pytest.mark.thorough), pytest.param((4, 2, 1), marks=pytest.mark.slow)]
)
def test_several_processes_go_on_as_fewer(launch, tmp_path, capsys, counts):
    finish(launch(1, "straight"))
    straight, alone = found(tmp_path / "straight", 1)
    seen = []
    for count, epoch in zip(counts, (2, 3, 4), strict=True):
        if epoch == 3:
            # The newest checkpoint is damaged, so both processes continue from the one before.
            flip(arrays(tmp_path / "moved" / "checkpoints" / "8"))
        output = finish(launch(count, "moved", stop_after_epoch=epoch))
        steps, scores = found(tmp_path / "moved", count)
        seen += steps
        assert [epoch_line in output[index] for index in range(count) for epoch_line in (f"epoch {epoch}/4",)] == [
            index == 0 for index in range(count)
        ], output
        assert ("damaged checkpoint passed over" in "".join(output)) == (epoch == 3), output
    assert len(straight) == 16 and seen == straight[:8] + straight[4:]
    ours, theirs = (
        [row for row in read_metrics(tmp_path / name / "metrics.jsonl") if row["split"] == "eval"]
        for name in ("moved", "straight")
    )
    assert [row["step"] for row in ours] == [row["step"] for row in theirs] == [4, 8, 12, 16]
    # 50 examples do not fill batches of 24; accuracies are compared as integer counts.
    for name in ("accuracy", "top5_accuracy", "raw_top5_accuracy"):
        assert [round(50 * row[name]) for row in ours[:2]] == [round(50 * row[name]) for row in theirs[:2]]
    for one, other in zip(ours, theirs, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-3)
    assert sum(map(sum, scores["confusion"])) == sum(map(sum, alone["confusion"])) == 50
    with capsys.disabled():
        print(f"\n{len(seen)} steps compared over {counts} processes, {sum(map(len, seen))} examples, 0 differ")


@pytest.mark.thorough
@pytest.mark.parametrize(("number", "index"), [(signal.SIGTERM, 1)])
def test_a_signal_to_one_process_saves_all_at_one_step(launch, tmp_path, number, index):
    processes = launch(2, "run", epochs=200, eval_every_epochs=100)
    steps = 0
    while steps < 6:
        line = processes[index].stdout.readline()
        assert line, processes[index].wait()
        steps += line == "step\n"
    processes[index].send_signal(number)
    sent = time.monotonic()
    outputs = finish(processes, 60)
    assert [process.returncode for process in processes] == [SAVED, SAVED], outputs
    assert time.monotonic() - sent < 30
    reasons = [output.splitlines()[-1] for output in outputs]
    assert all("saved; the same command goes on" in reason for reason in reasons), outputs
    (place,) = {reason.split(" after ")[1] for reason in reasons}
    step = int(place.split()[1].rstrip(":"))
    assert (tmp_path / "run" / "checkpoints" / str(step) / "manifest.json").exists()


@pytest.mark.thorough
@pytest.mark.parametrize("dead", [0, 1])
def test_a_dead_peer_ends_the_others_with_a_code_to_restart_on(launch, dead):
    processes = launch(2, "run", epochs=200, eval_every_epochs=100, peer_timeout_seconds=10)
    other = processes[1 - dead]
    while "step" not in other.stdout.readline():
        assert other.poll() is None
    processes[dead].kill()
    killed = time.monotonic()
    outputs = finish(processes, 60)
    assert other.returncode == LOST, outputs[1 - dead]
    assert time.monotonic() - killed < 30


@pytest.mark.thorough
def test_what_processes_tell_each_other(tmp_path, cache):
    outputs = finish(start(2, HERE / "agreement_child.py", tmp_path, cache=cache))
    for output in outputs:
        assert "first says 0.25 False 7\n" in output
        assert "process 1 has another data, size than process 0" in output
        assert "process 1 does not see what process 0 writes into" in output
        assert "left []" in output and "called False" in output and "called True" in output
        assert "agreed 12" in output


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"COORDINATOR": "localhost:1"}, "needs two numbers"),
        ({"COORDINATOR": "localhost:1", "PROCESS_COUNT": "2", "PROCESS_INDEX": "x"}, "needs two numbers"),
        ({"COORDINATOR": "localhost:1", "PROCESS_COUNT": "2", "PROCESS_INDEX": "2"}, r"must lie in \[0, 2\), got 2"),
        *(
            ({"COORDINATOR": address, "PROCESS_COUNT": "2", "PROCESS_INDEX": "0"}, f"HOST:PORT.*, got '{address}'$")
            for address in ("myhost", "", "myhost:", ":8476", "myhost:http", "myhost:0", "myhost:65536", "fd00::2")
        ),
        ({"COORDINATOR": "http://myhost:8476", "PROCESS_COUNT": "2", "PROCESS_INDEX": "0"}, "HOST:PORT"),
        ({"PROCESS_COUNT": "2", "PROCESS_INDEX": "0"}, "PROCESS_COUNT is set, which needs AA_FLAX_COORDINATOR"),
        ({"DISTRIBUTED": "maybe"}, "AA_FLAX_DISTRIBUTED must be 1 or true, 0 or false, got 'maybe'"),
        ({"DISTRIBUTED": "2"}, "AA_FLAX_DISTRIBUTED must be 1 or true, 0 or false, got '2'"),
    ],
)
def test_variables_that_contradict(monkeypatch, variables, words):
    for name, value in variables.items():
        monkeypatch.setenv(f"AA_FLAX_{name}", value)
    with pytest.raises(ConfigError, match=words):
        join(10)


@pytest.mark.parametrize("value", ["1", "true", "True", "YES", "on", None, "0", "false", "No", "off", ""])
def test_a_cluster_is_joined_when_asked(monkeypatch, value):
    joined = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *arguments, **_: joined.append(arguments))
    monkeypatch.setattr("aa_flax.runs.hosts._turn_aborts_into_lost", lambda: None)
    if value is not None:
        monkeypatch.setenv("AA_FLAX_DISTRIBUTED", value)
    join(10)
    assert joined == ([(None, None, None)] if value in ("1", "true", "True", "YES", "on") else [])


@pytest.mark.parametrize("address", ["10.0.0.2:8476", "[fd00::2]:8476", "my-host.example:1", "localhost:65535"])
def test_addresses_of_the_first_process(monkeypatch, address):
    joined = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *arguments, **_: joined.append(arguments))
    monkeypatch.setattr("aa_flax.runs.hosts._turn_aborts_into_lost", lambda: None)
    for name, value in (("COORDINATOR", address), ("PROCESS_COUNT", "3"), ("PROCESS_INDEX", "2")):
        monkeypatch.setenv(f"AA_FLAX_{name}", value)
    join(10)
    assert joined == [(address, 3, 2)]
