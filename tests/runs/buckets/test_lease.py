"""Tests of the lease of a run in a bucket, on a clock that only the tests move."""

import pytest
from memory_store import Killed, store

from aa_flax.runs.buckets.bucket_path import BucketPath
from aa_flax.runs.buckets.lease import EXPIRED, RENEWED, Lease
from aa_flax.runs.errors import RunDirectoryError

__all__ = ["store"]
RUN = BucketPath("memory", "runs/one")


class Waiting:
    """Time passes while somebody waits, and something happens in it."""

    def __init__(self, store, happens=lambda seconds: None):
        self._store, self._happens, self.seconds = store, happens, 0.0

    def __call__(self, seconds):
        self.seconds += seconds
        self._store.now += seconds
        self._happens(self.seconds)


def taken(store, happens=lambda seconds: None):
    """Return a lease that was taken, and how long that took."""
    waiting = Waiting(store, happens)
    lease = Lease(RUN, waiting, lambda: store.now)
    lease.take()
    return lease, waiting.seconds


def test_a_lease_that_is_free_or_was_given_back_is_taken_at_once(store):
    lease, seconds = taken(store)
    lease.give_back()
    assert taken(store)[1] == seconds == 0


def test_the_lease_of_a_killed_process_is_taken_when_it_has_expired_and_not_before(store):
    first, _ = taken(store)
    store.now += 30
    first.renew()
    store.now += 10
    _, seconds = taken(store)
    assert EXPIRED - 10 < seconds < EXPIRED - 10 + 7


@pytest.mark.parametrize("finds_out", ["renew", "confirm"])
def test_the_old_holder_stops_at_its_next_refusal(store, finds_out):
    first, _ = taken(store)
    second, _ = taken(store)
    first.check()  # it cannot know yet
    if finds_out == "renew":
        first.renew()
    with pytest.raises(
        RunDirectoryError, match=r"gs://memory/runs/one: another process has taken over .*: process \d+ on"
    ):
        first.confirm()
    with pytest.raises(RunDirectoryError, match="has taken over"):
        first.check()
    content = store.read("runs/one/.lease")
    first.renew()
    first.give_back()
    assert store.read("runs/one/.lease") == content  # what is lost is left alone
    second.confirm()


def test_a_process_that_renews_keeps_others_out(store):
    first, _ = taken(store)
    due = [RENEWED]

    def renews(seconds):
        if seconds >= due[0]:
            first.renew()
            due[0] += RENEWED

    with pytest.raises(RunDirectoryError, match=r"another process is training in gs://memory/runs/one: process \d+ on"):
        taken(store, renews)
    assert due[0] == 2 * RENEWED  # told at the first sign of life
    first.confirm()


def test_of_two_that_find_an_expired_lease_one_takes_it(store):
    taken(store)
    store.now += EXPIRED + 1
    write, others = store.write, []

    def overtaken(name, content, generation=None):
        store.write = write
        others.append(taken(store)[0])
        return write(name, content, generation)

    store.write = overtaken
    with pytest.raises(RunDirectoryError, match="another process is training in gs://memory/runs/one"):
        taken(store)
    others[0].confirm()


def test_a_writing_without_an_answer_does_not_cost_the_lease(store, caplog):
    lease, _ = taken(store)
    for fault in ("unanswered", "lost", "unanswered"):
        store.faults = [fault]
        lease.renew()
        assert "the lease could not be renewed: no answer" in caplog.text
        lease.check()
    generation = store.look("runs/one/.lease")[0].generation
    lease.renew()
    lease.check()
    assert store.look("runs/one/.lease")[0].generation > generation


def test_a_bucket_that_is_out_of_reach_for_long_costs_the_lease_only_when_another_has_taken_it(store):
    lease, _ = taken(store)
    store.now += 10 * EXPIRED
    store.faults = ["lost"]
    lease.confirm()
    lease.confirm()  # reached again, and still its own
    store.now += 10 * EXPIRED
    taken(store)
    with pytest.raises(RunDirectoryError, match="has taken over"):
        lease.confirm()


def test_a_confirmation_costs_one_writing_in_a_while(store):
    lease, _ = taken(store)
    generation = store.look("runs/one/.lease")[0].generation
    lease.confirm()
    assert store.look("runs/one/.lease")[0].generation == generation
    store.now += 6
    lease.confirm()
    assert store.look("runs/one/.lease")[0].generation > generation


def test_a_lease_is_held_by_a_thread_and_given_back(store, monkeypatch):
    monkeypatch.setattr("aa_flax.runs.buckets.lease.RENEWED", 0.01)
    with Lease(RUN).held() as lease:
        generation = store.look("runs/one/.lease")[0].generation
        while store.look("runs/one/.lease")[0].generation < generation + 3:
            pass
        lease.check()
    assert store.read("runs/one/.lease") == b""
    store.left = 0
    with pytest.raises(Killed):
        Lease(RUN).take()
