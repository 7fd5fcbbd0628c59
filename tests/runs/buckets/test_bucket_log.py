"""Tests of the log of a run in a bucket, which is written in parts."""

import gc
import random

import pytest
from memory_store import Killed, store
from runs.test_metrics import events

from aa_flax.runs import metrics
from aa_flax.runs.buckets import parts
from aa_flax.runs.buckets.bucket_path import BucketPath
from aa_flax.runs.metrics import MetricsError, MetricsLog, read_metrics

__all__ = ["store"]
RUN = BucketPath("memory", "run")
LOG = RUN / "metrics.jsonl"


@pytest.fixture(autouse=True)
def small_parts(store, monkeypatch):
    monkeypatch.setattr(metrics, "_PAUSE", 0.0)
    monkeypatch.setattr(parts, "_MOST", 140)  # bytes: two rows


def written(workdir, steps, start=0, close=True):
    log = MetricsLog(workdir, start)
    for step in steps:
        log.write(step, "train", loss=step / 3)
    if close:
        log.close()
    return log


def part_names():
    return [each.name for each in RUN.iterdir() if each.name.startswith("metrics")]


def test_parts_are_read_as_one_log_here_and_on_a_disk(store, tmp_path):
    written(RUN, range(1, 8))
    assert part_names() == [f"metrics-{i:05d}.jsonl" for i in (1, 2, 3)] + ["metrics.jsonl"]
    (tmp_path / "disk").mkdir()
    written(tmp_path / "disk", range(1, 8))
    assert read_metrics(LOG) == read_metrics(tmp_path / "disk" / "metrics.jsonl")
    for name in part_names():
        (tmp_path / name).write_bytes((RUN / name).read_bytes())
    written(tmp_path, [5, 6], start=4)  # a copy on a disk goes on
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("step", range(8))
def test_a_run_that_goes_on_has_the_log_of_an_undisturbed_one(store, step):
    written(RUN, range(1, 8))
    written(RUN, range(step + 1, 10), start=step)
    assert [row["step"] for row in read_metrics(LOG)] == [*range(1, 10)]


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of files that a killed process does not close
def test_a_kill_at_any_moment_loses_no_row_that_a_checkpoint_has_seen(store):
    drawn = random.Random(0)
    for _ in range(20):
        store.objects.clear()
        seen = 0
        while seen < 12:
            store.left = drawn.randrange(12)
            try:
                log = MetricsLog(RUN, seen)
                for step in range(seen + 1, 15):
                    log.write(step, "train", loss=step / 3)
                    if step % 3 == 0:
                        log.flush()
                        seen = step
                log.close()
            except Killed:
                pass
            finally:
                store.left = None
            steps = [row["step"] for row in read_metrics(LOG)]
            assert steps == [*range(1, len(steps) + 1)] and len(steps) >= seen
    log = None
    gc.collect()


def test_rows_wait_while_the_bucket_does_not_answer(store):
    log = written(RUN, [1], close=False)
    store.faults = ["lost", "unanswered", "", "unanswered", "lost"]
    for step in range(2, 7):
        log.write(step, "train", loss=step / 3)
    log.close()
    assert [row["step"] for row in read_metrics(LOG)] == [*range(1, 7)]
    store.faults = ["", "", *["lost"] * 9]
    log = MetricsLog(RUN, 6)
    log.write(7, "train", loss=1.0)
    with pytest.raises(MetricsError, match="gs://memory/run/metrics.jsonl: 1 rows could not be written"):
        log.close()


def test_a_process_that_has_lost_its_lease_adds_nothing(store, caplog):
    old = written(RUN, [1, 2, 3], close=False)
    new = MetricsLog(RUN, 2)
    old.write(4, "train", loss=0.0)
    new.write(3, "train", loss=1.0)
    new.close()
    with pytest.raises(MetricsError):
        old.close()
    assert [row["loss"] for row in read_metrics(LOG)] == [1 / 3, 2 / 3, 1.0]


def test_rows_are_written_together_and_before_a_checkpoint(store, monkeypatch):
    monkeypatch.setattr(metrics, "_PAUSE", 1e9)
    log = written(RUN, [1, 2, 3], close=False)
    assert len(read_metrics(LOG)) == 1
    log.flush()
    assert len(read_metrics(LOG)) == 3
    log.close()


def test_events_are_files_that_follow_each_other(store, monkeypatch, tmp_path):
    monkeypatch.setattr("aa_flax.runs.events._PAUSE", 0.0)
    monkeypatch.setattr("aa_flax.runs.events._MOST", 200)
    written(RUN, range(1, 10))
    names = [each.name for each in RUN.iterdir() if "tfevents" in each.name]
    assert len(names) > 2
    for name in names:
        (tmp_path / name).write_bytes((RUN / name).read_bytes())
    found = list(events(tmp_path))
    assert [event.step for event in found if event.summary.value] == [*range(1, 10)]
    assert sum(event.file_version == "brain.Event:2" for event in found) == len(names)
