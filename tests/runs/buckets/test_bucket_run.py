"""Tests of a run directory in a bucket: small files, checkpoints and their remains after a kill at any moment."""

import json
import shutil

import pytest
from memory_store import Killed, store

from aa_flax.config.schema import default_config, resolve
from aa_flax.data.preprocessing import Preprocessing
from aa_flax.runs import checkpoint_files as files
from aa_flax.runs.buckets import bucket_path, google_store, lease
from aa_flax.runs.buckets.bucket_path import BucketPath
from aa_flax.runs.directory import RunDirectory, RunDirectoryError
from aa_flax.runs.manifest import NAME, damage, write_manifest
from aa_flax.runs.paths import run_path

__all__ = ["store"]
CONFIG = resolve(default_config())
SEEN = Preprocessing((6, 8), 3, (0.5,) * 3, (0.25,) * 3, ("ant", "bee"), "float32", "")
FOLDER = BucketPath("memory", "run/checkpoints")
PARTS = {"model/array": b"weights", "training/d/0a": b"momentum", "commit_success.txt": b""}


def write(folder, step, parts=PARTS):
    """Write the files of a checkpoint as Orbax does."""
    for name, content in parts.items():
        (files.unfinished(folder, step) / name).write_bytes(content)


def save(folder, step):
    files.make_way(folder, step)
    write(folder, step)
    files.publish(folder, step)


@pytest.mark.parametrize("name", ["gs://memory/a/b", "gs:/memory/a/b", "gs://memory/a//b/", "gs://memory/x/../a/b"])
def test_paths_name_the_same_folder(name):
    assert str(RunDirectory(name).checkpoints) == "gs://memory/a/b/checkpoints"
    assert run_path(name).parent / "c" == BucketPath("memory", "a/c")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("s3://bucket/run", "s3://bucket/run: a run lies in a folder or in gs://BUCKET/PATH; mount other storage"),
        ("az://bucket/run", "mount other storage"),
        ("gs://", "gs://: expected gs://BUCKET/PATH"),
        ("gs:///run", "expected gs://BUCKET/PATH"),
        ("gs://bucket/../other", "leads out of the bucket"),
    ],
)
def test_what_names_no_folder_of_a_bucket_is_refused_in_a_line(name, words):
    with pytest.raises(RunDirectoryError) as error:
        RunDirectory(name)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_without_the_extra_a_bucket_is_refused_in_a_line(monkeypatch):
    monkeypatch.setattr(bucket_path.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RunDirectoryError, match=r"^gs://none: gcsfs is not installed; the extra gcs brings it$"):
        RunDirectory("gs://none/run").check(CONFIG)


def test_without_credentials_a_bucket_is_refused_in_a_line(monkeypatch):
    auth = pytest.importorskip("google.auth")

    def none(scopes):
        raise auth.exceptions.DefaultCredentialsError("several\nlines")

    monkeypatch.delenv(google_store.EMULATOR, raising=False)
    monkeypatch.setattr(auth, "default", none)
    with pytest.raises(
        RunDirectoryError, match="^gs://none: no credentials were found; `gcloud auth application-de[^\n]*$"
    ):
        RunDirectory("gs://none/run").check(CONFIG)


def test_small_files_are_as_on_a_disk(store, tmp_path):
    for name in ("gs://memory/run", tmp_path / "run"):
        directory = RunDirectory(name)
        directory.check(CONFIG, SEEN)
        assert not directory.has_checkpoint and directory.read_result() is None
        with directory.locked() as hold:
            directory.mark()
            directory.begin(CONFIG, SEEN, "weights of\x20somewhere")
            hold.confirm()
        directory.check(CONFIG, SEEN)
        directory.require_nothing_lost()
        directory.mark(saved=True)
        with pytest.raises(RunDirectoryError, match="had checkpoints, and has none to go on from"):
            directory.require_nothing_lost()
        directory.write_result({"accuracy": 0.5})
        directory.write_failure("diverged", [3])
        assert directory.read_config() == CONFIG and directory.read_preprocessing() == SEEN
        assert directory.read_result() == {"accuracy": 0.5} and directory.read_failure() == [3]
        with directory.folder("replay") as folder:
            (folder / "a.png").write_bytes(b"picture")
        assert (directory.path / "replay" / "a.png").read_bytes() == b"picture"
    names = {each.name for each in RunDirectory("gs://memory/run").path.iterdir()}
    assert names - {".lease"} == {each.name for each in (tmp_path / "run").iterdir()} - {".lock"}


@pytest.mark.parametrize("name", ["notes.txt", "checkpoints/1000/data", "run/run.json", "config.json"])
def test_a_folder_with_anything_of_others_is_refused_and_left_as_it_is(store, name):
    store.write(f"runs/mine/{name}", b"mine")
    store.write("runs/mine/train.log", b"words of a shell")
    with pytest.raises(RunDirectoryError, match=rf"not empty: it has {name.split('/')[0]}; choose another"):
        RunDirectory("gs://memory/runs/mine").check(CONFIG)
    RunDirectory("gs://memory/runs/min").check(CONFIG)  # which a part of the other's name is
    assert store.read(f"runs/mine/{name}") == b"mine" and len(store.objects) == 2


def test_one_run_at_a_time(store, monkeypatch):
    monkeypatch.setattr(lease, "RENEWED", 0.01)
    monkeypatch.setattr(lease, "_LOOK", 0.2)
    directory = RunDirectory("gs://memory/run")
    with (
        directory.locked(),
        pytest.raises(RunDirectoryError, match="another process is training in gs://memory/run: process"),
        directory.locked(),
    ):
        pass
    with directory.locked():
        pass


def test_a_manifest_names_damage_and_vouches_for_copies(store, tmp_path):
    save(FOLDER, 3)
    assert files.saved_steps(FOLDER) == [3] and damage(FOLDER / "3") is None
    copy = tmp_path / "checkpoints" / "3"
    for name, content in {**PARTS, NAME: (FOLDER / "3" / NAME).read_bytes()}.items():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes(content)
    assert files.saved_steps(copy.parent) == [3] and damage(copy) is None
    (copy / "model/array").write_bytes(b"Weights")
    assert damage(copy) == "model/array has other contents than were saved"
    (copy / "model/array").write_bytes(b"weights")
    write_manifest(copy)  # a disk's, with other hashes
    shutil.copytree(copy, tmp_path / "other")
    for name in (*PARTS, NAME):
        (FOLDER / "5" / name).write_bytes((tmp_path / "other" / name).read_bytes())
    assert files.saved_steps(FOLDER) == [3, 5] and damage(FOLDER / "5") is None
    (FOLDER / "5" / "training/d/0a").write_bytes(b"Momentum")
    assert damage(FOLDER / "5") == "training/d/0a has other contents than were saved"
    (FOLDER / "3" / "model/array").write_bytes(b"weight")
    assert damage(FOLDER / "3") == "model/array has 6 bytes instead of 7"
    (FOLDER / "3" / "model/array").unlink()
    assert damage(FOLDER / "3") == "model/array is missing"


def test_what_is_not_proved_ours_is_kept(store):
    (FOLDER / "7" / "thesis.tex").write_text("mine")
    assert files.saved_steps(FOLDER) == [] and [child.name for child in files.unvouched(FOLDER)] == ["7"]
    files.remove_remains(FOLDER)
    assert (FOLDER / "7" / "thesis.tex").read_text() == "mine"
    save(FOLDER, 7)
    assert files.saved_steps(FOLDER) == [7] and files.unvouched(FOLDER) == []
    assert (FOLDER / "7.unvouched-0" / "thesis.tex").read_text() == "mine"


def killed_after(store, changes, act):
    """Do something until a kill after a number of changes; return whether it was killed."""
    store.left = changes
    try:
        act()
    except Killed:
        return True
    finally:
        store.left = None
    return False


@pytest.mark.parametrize("act", ["save", "replace", "delete"])
def test_a_kill_at_any_moment_leaves_a_checkpoint_or_none_and_no_remains(store, act):
    acts = {
        "save": lambda: save(FOLDER, 5),
        "replace": lambda: save(FOLDER, 3),
        "delete": lambda: files.delete_checkpoint(FOLDER, 3),
    }
    changes, there = 0, set()
    while True:
        store.objects.clear()
        save(FOLDER, 3)
        (FOLDER / "4" / "thesis.tex").write_text("mine")
        killed = killed_after(store, changes, acts[act])
        seen = files.saved_steps(FOLDER)
        assert all(damage(FOLDER / str(step)) is None for step in seen)
        assert [child.name for child in files.unvouched(FOLDER)] == ["4"]
        for more in range(9):  # killed again while it cleans up
            killed_after(store, more, lambda: files.remove_remains(FOLDER))
            assert files.saved_steps(FOLDER) == seen
        wanted = {f"{step}/{name}" for step in seen for name in (*PARTS, NAME)} | {"4/thesis.tex"}
        assert set(FOLDER.objects()) == wanted
        there.add(tuple(seen))
        if not killed:
            break
        changes += 1
    assert changes > 4
    assert there == {"save": {(3,), (3, 5)}, "replace": {(3,), ()}, "delete": {(3,), ()}}[act]


def test_a_bucket_that_does_not_answer_is_no_empty_one(store, monkeypatch):
    save(FOLDER, 3)
    store.write("run/config.json", json.dumps({}).encode())

    def no_answer(name):
        from memory_store import Cut

        raise Cut

    monkeypatch.setattr(store, "read", no_answer)
    for ask in (
        lambda: files.saved_steps(FOLDER),
        lambda: damage(FOLDER / "3"),
        lambda: RunDirectory("gs://memory/run").read_config(),
        lambda: RunDirectory("gs://memory/run").read_mark(),
    ):
        with pytest.raises(RunDirectoryError, match="^no answer$"):
            ask()
