"""Tests against a stand-in for Cloud Storage on this machine, through a proxy that fails; see `tests/bucket.sh`."""

import dataclasses
import json
import os
import random
import time
import urllib.parse
from pathlib import Path

import forked
import jax.numpy as jnp
import numpy as np
import pytest
from emulated_bucket import BUCKET, emulated, variables
from hosts import finish, start
from run_files import assert_same, final_state, rows, state_with_many_blocks
from runs.test_kill_drill import drill

import aa_flax
from aa_flax.runs.buckets import bucket_path, google_store, lease
from aa_flax.runs.buckets.bucket_path import BucketPath
from aa_flax.runs.buckets.google_store import GoogleStore
from aa_flax.runs.buckets.store import BucketError, Refused
from aa_flax.runs.checkpoint_files import saved_steps
from aa_flax.runs.checkpoints import Checkpoints
from aa_flax.runs.errors import RunDirectoryError
from aa_flax.training import resolve, setup
from aa_flax.training.loop import train

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),  # connections live on
]


@pytest.fixture(scope="module")
def server():
    with emulated() as proxy:
        yield proxy


@pytest.fixture
def proxy(server, monkeypatch):
    """The proxy, without failures, that this process takes for Cloud Storage."""
    for name, value in variables(server).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(google_store, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr(bucket_path, "_stores", {})
    server.fault = lambda method, path: ""
    server.seen.clear()
    return server


def once_each(faults):
    """Return a function that has the next requests fail, one after the other, and then none."""
    left = list(faults)
    return lambda method, path: left.pop(0) if left else ""


def test_objects(proxy):
    store = GoogleStore(BUCKET)
    first = store.write("objects/a b/c", b"one", 0)
    second = store.write("objects/a b/c", b"two", first.generation)
    assert second.generation > first.generation and store.read("objects/a b/c") == b"two"
    for generation in (0, first.generation):
        with pytest.raises(Refused):
            store.write("objects/a b/c", b"three", generation)
    there, now = store.look("objects/a b/c")
    assert there == second and abs(now - there.updated) < 60 and store.look("objects/none")[0] is None
    store.copy("objects/a b/c", "objects/d")
    assert [each.name for each in store.list("objects/")[0]] == ["objects/a b/c", "objects/d"]
    assert store.list("objects/", deep=False)[1] == ["objects/a b/"]
    store.delete("objects/d")
    store.delete("objects/d")
    with pytest.raises(FileNotFoundError):
        store.read("objects/d")


@pytest.mark.parametrize("faults", [[503, 429, 500], ["dropped", "dropped"], ["cut", 503], ["cut", "dropped", "cut"]])
def test_what_may_pass_is_tried_again_and_nobody_is_refused_by_oneself(proxy, faults):
    store = GoogleStore(BUCKET)
    name = f"again/{faults}"
    proxy.fault = once_each(faults)
    first = store.write(name, b"one", 0)
    proxy.fault = once_each(faults)
    second = store.write(name, b"two", first.generation)
    assert store.look(name)[0] == second and second.generation > first.generation
    proxy.fault = once_each(faults)
    assert store.read(name) == b"two"
    proxy.fault = once_each(faults)
    store.delete(name)
    assert store.look(name)[0] is None


def test_a_server_that_is_too_slow_is_asked_again(proxy, monkeypatch):
    monkeypatch.setattr(google_store, "_TIMEOUT", (1.0, 0.3))
    proxy.fault = once_each([1.0])
    assert GoogleStore(BUCKET).write("slow", b"one", 0) == GoogleStore(BUCKET).look("slow")[0]


@pytest.mark.parametrize(("status", "words"), [(403, "access is denied: injected"), (400, "status 400: injected")])
def test_what_cannot_pass_is_told_at_once(proxy, status, words):
    proxy.fault = lambda method, path: status
    with pytest.raises(BucketError, match=f"^gs://{BUCKET}: {words}$"):
        GoogleStore(BUCKET).list("")
    assert len(proxy.seen) == 1


def test_a_bucket_that_is_not_there_or_does_not_answer(proxy):
    with pytest.raises(BucketError, match="^gs://nobodys: there is no such bucket$"):
        GoogleStore("nobodys").list("")
    proxy.fault = lambda method, path: 503
    began = time.monotonic()
    with pytest.raises(BucketError, match=rf"^gs://{BUCKET}: GET failed \d+ times, at last with status 503$"):
        GoogleStore(BUCKET, patience=0.5).list("")
    assert time.monotonic() - began < 5


def test_checkpoints_are_saved_restored_and_deleted_while_requests_fail(proxy, caplog):
    drawn = random.Random(0)
    proxy.fault = lambda method, path: 503 if drawn.random() < 0.02 else ""
    folder, state = BucketPath(BUCKET, "failing/checkpoints"), state_with_many_blocks()
    with Checkpoints(folder, keep=2) as checkpoints:
        for step in (3, 5, 7):
            object.__setattr__(state, "step", jnp.asarray(step, jnp.int32))
            checkpoints.save(state)
            checkpoints.require(step)
        assert saved_steps(folder) == [5, 7]
        assert_same(checkpoints.restore(state), state)
    name = next(name for name in (folder / "7").objects() if "/d/" in name)
    (folder / "7" / name).write_bytes(b"damaged")
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.latest_step == 5
    assert {child.name for child in folder.iterdir()} == {"5", "7"}
    assert any(status == 503 for _, _, status in proxy.seen)


def command(proxy, name, *arguments):
    return forked.run("-m", f"aa_flax.{name}", *arguments, environment={**os.environ, **variables(proxy)})


def test_commands_know_a_run_in_a_bucket(proxy, plain_config, straight, tmp_path):
    plain_config.epochs, plain_config.keep_checkpoints, plain_config.profile_steps = 2, 9, (1, 2)
    workdir = f"gs://{BUCKET}/commands"
    train(resolve(plain_config), workdir)
    assert_same(final_state(workdir), final_state(straight))
    assert rows(workdir) == rows(straight)
    assert any(name.endswith("perfetto_trace.json.gz") for name in BucketPath.of(f"{workdir}/profile").objects())

    listed = command(proxy, "checkpoints", "list", f"--workdir={workdir}").stdout.splitlines()
    assert [line.split()[0] for line in listed[1:]] == ["4", "8"]
    assert float(listed[1].split()[1]) > 0 and listed[1].split()[2].startswith("2")
    scores = [command(proxy, "evaluate", f"--workdir={each}").stdout.splitlines()[-1] for each in (workdir, straight)]
    ours, theirs = map(json.loads, scores)
    assert ours.pop("workdir") == workdir and theirs.pop("workdir") and ours == theirs
    exported = command(proxy, "checkpoints", "export", tmp_path / "w.safetensors", f"--workdir={workdir}")
    assert exported.returncode == 0 and (tmp_path / "w.safetensors").is_file(), exported.stderr
    photo = np.random.default_rng(0).integers(0, 256, (9, 11, 3), np.uint8)
    predictions = [aa_flax.load(each)(photo) for each in (workdir, str(straight), tmp_path / "w.safetensors")]
    assert len({str(each) for each in predictions}) == 1
    pruned = command(proxy, "checkpoints", "prune", "--keep=1", "--nokeep_best", f"--workdir={workdir}")
    assert pruned.stdout == "deleted: 4\n" and saved_steps(BucketPath.of(f"{workdir}/checkpoints")) == [8], (
        pruned.stderr
    )


@pytest.mark.parametrize(
    ("workdir", "words"),
    [
        ("gs://nobodys/run", "error: gs://nobodys: there is no such bucket"),
        (
            "s3://bucket/run",
            "error: s3://bucket/run: a run lies in a folder or in gs://BUCKET/PATH; mount other storage",
        ),
    ],
)
@pytest.mark.parametrize("name", ["evaluate", "checkpoints"])
def test_what_is_no_run_in_a_bucket_is_one_line(proxy, name, workdir, words):
    done = command(proxy, name, *["list"][: name == "checkpoints"], f"--workdir={workdir}")
    assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_two_hosts_share_a_run_in_a_bucket(proxy, plain_config, straight, tmp_path):
    plain_config.epochs = 2
    file, workdir = tmp_path / "config.json", f"gs://{BUCKET}/hosts"
    for epochs in (1, 2):  # the second goes on from the bucket
        plain_config.stop_after_epoch = epochs
        file.write_text(json.dumps(dataclasses.asdict(resolve(plain_config))))
        child = Path(drill.__code__.co_filename).parent / "host_child.py"
        output = finish(start(2, child, file, workdir, tmp_path, cache=tmp_path / "cache", more=variables(proxy)))
        assert (tmp_path / "2-1.json").exists(), output
        assert saved_steps(BucketPath.of(f"{workdir}/checkpoints")) == [4, 8][:epochs]
    ours, theirs = ([(row["step"], row["split"]) for row in rows(each)] for each in (workdir, straight))
    assert ours == theirs


def test_a_training_that_was_taken_over_saves_nothing_more(proxy, plain_config, straight, monkeypatch):
    plain_config.epochs = 2
    workdir, held = f"gs://{BUCKET}/taken", BucketPath(BUCKET, "taken/.lease")
    place_batch, calls = setup.place_batch, []

    def overtaken(*arguments):
        calls.append(1)
        if len(calls) == 6:
            held.write_bytes(b'{"holder": "another", "process": 7, "host": "elsewhere"}')
            time.sleep(1)  # the lease is renewed meanwhile
        return place_batch(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(lease, "RENEWED", 0.1)
        patch.setattr(setup, "place_batch", overtaken)
        with pytest.raises(RunDirectoryError, match="another process has taken over this run: process 7 on elsewhere"):
            train(resolve(plain_config), workdir)
    assert len(calls) == 6 and saved_steps(BucketPath.of(f"{workdir}/checkpoints")) == [4]
    held.write_bytes(b"")
    train(resolve(plain_config), workdir)
    assert_same(final_state(workdir), final_state(straight))
    assert rows(workdir) == rows(straight)


def test_a_kill_drill_in_a_bucket(proxy, plain_config, tmp_path, capsys):
    drawn = random.Random(1)
    proxy.fault = lambda method, path: 503 if drawn.random() < 0.002 else ""
    drill(plain_config, tmp_path, capsys, 6, 12, BucketPath(BUCKET, "drill"), variables(proxy))
    names = {urllib.parse.unquote(each) for each in (BucketPath(BUCKET, "drill").objects())}
    assert "metrics.jsonl" in names and any("tfevents" in name for name in names) and "run.json" in names
    assert json.loads((BucketPath(BUCKET, "drill") / "run.json").read_text())["saved"] is True
