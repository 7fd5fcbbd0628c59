"""Tests of the log on a disk that is full or cannot be written any more."""

import errno
import itertools
import json
import math
import struct
from pathlib import Path

import pytest
from tensorboardX import event_file_writer
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog

from aa_flax.runs.directory import RunDirectoryError
from aa_flax.runs.metrics import MetricsError, MetricsLog, read_metrics
from aa_flax.training import RunDirectory, resolve
from aa_flax.training.loop import train


class FullDisk:
    """File on a full disk, which takes half of the written text and then raises."""

    def __init__(self, file):
        self._file = file

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._file.close()

    def writelines(self, lines):
        text = "".join(lines)
        self._file.write(text[: len(text) // 2])
        self._file.flush()
        raise OSError(errno.ENOSPC, "No space left on device")


def fail(*arguments):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("there_is_room_again", [True, False])
def test_rows_wait_while_the_disk_is_full(tmp_path, monkeypatch, there_is_room_again):
    log = MetricsLog(tmp_path, 0)
    log.write(1, "train", loss=2.0)
    with monkeypatch.context() as patch:
        open_file = Path.open
        patch.setattr(Path, "open", lambda self, *mode: FullDisk(open_file(self, *mode)))
        patch.setattr(EventsWriter, "write_event", fail)
        log.write(2, "train", loss=1.5)
        log.write(3, "train", loss=math.inf)
        if not there_is_room_again:
            with pytest.raises(MetricsError, match="2 rows could not be written"):
                log.close()
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "split": "train", "loss": 2.0}\n'
    if there_is_room_again:
        log.write(4, "train", loss=3.0)
        log.close()
        rows = [(row["step"], row["loss"]) for row in read_metrics(log.file)]
        assert rows == [(1, 2.0), (2, 1.5), (3, None), (4, 3.0)]


def test_a_torn_line_and_later_steps_go_when_a_run_goes_on(tmp_path):
    rows = [{"step": step, "split": "train", "loss": 1.0} for step in (3, 6, 9)]
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 12, "spl')
    MetricsLog(tmp_path, 6).close()
    assert read_metrics(file) == rows[:2] and file.read_text().count("\n") == 2


def events(folder):
    """Yield the events in the files of a folder, in TensorBoard's order; a record is length, CRC, data, CRC."""
    for file in sorted(folder.glob("events.out.tfevents*")):
        content, place = file.read_bytes(), 0
        while place < len(content):
            (length,) = struct.unpack_from("<Q", content, place)
            yield Event.FromString(content[place + 12 : place + 12 + length])
            place += length + 16


def shown(folder):
    """Return the steps that TensorBoard shows: a START drops what was read before of its step and later ones."""
    steps = []
    for event in events(folder):
        if event.session_log.status == SessionLog.START:
            steps = [step for step in steps if step < event.step]
        steps += [event.step] * len(event.summary.value)
    return steps


@pytest.mark.parametrize("checkpoint", [0, 1, 3])
def test_tensorboard_shows_no_step_twice_after_a_kill(tmp_path, monkeypatch, checkpoint):
    """The first process is killed after step 3, the second after step 2 of those that it trains."""
    monkeypatch.setattr(event_file_writer.time, "time", itertools.count(1.7e9).__next__)  # a file has its second's name
    for start, stop in ((0, 3), (checkpoint, checkpoint + 2), (checkpoint, 5)):
        log = MetricsLog(tmp_path, start)
        for step in range(start + 1, stop + 1):
            log.write(step, "train", loss=1.0)
        log.close()  # writes nothing more
    assert shown(tmp_path) == [1, 2, 3, 4, 5]
    assert [row["step"] for row in read_metrics(log.file)] == [1, 2, 3, 4, 5]


def test_a_log_with_words_that_are_no_json_is_rewritten_without_them(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 3, "split": "train", "loss": NaN, "grad_norm": -Infinity}\n')
    MetricsLog(tmp_path, 3).close()
    assert file.read_text() == '{"step": 3, "split": "train", "loss": null, "grad_norm": null}\n'


@pytest.mark.few
@pytest.mark.parametrize("name", [".lock", ".config.json.partial"])
def test_a_directory_that_cannot_be_written_is_told_before_training(tiny_config, tmp_path, monkeypatch, name):
    """Root may write into a folder of mode 555, so the error is injected."""
    open_file = Path.open

    def read_only(self, mode="r", *options, **more):
        if self.name == name:
            raise OSError(errno.EROFS, "Read-only file system")
        return open_file(self, mode, *options, **more)

    monkeypatch.setattr(Path, "open", read_only)
    with pytest.raises(RunDirectoryError, match="cannot be written: Read-only file system"):
        train(resolve(tiny_config), tmp_path / "run")
    assert not RunDirectory(tmp_path / "run").has_checkpoint


ZEROS, LATIN, TORN = b"\0" * 40, b'{"step": 2, "split": "tr\xe4in"}\n', b'{"step": 2, "spl'
ROWS = [json.dumps({"step": step, "split": "train", "loss": 1 / step}).encode() + b"\n" for step in (1, 2, 3)]


@pytest.mark.parametrize(
    ("lines", "steps", "damaged"),
    [
        ([ROWS[0], ZEROS + b"\n", *ROWS[1:]], [1, 2, 3], 1),
        ([ROWS[0], ZEROS + ROWS[1], ROWS[2]], [1, 2, 3], 0),
        ([ROWS[0], LATIN, ROWS[2]], [1, 3], 1),
        ([b"[]\n", b'{"step": "1"}\n', b"<<<<<<< HEAD\n", *ROWS], [1, 2, 3], 3),
        ([*ROWS, TORN], [1, 2, 3], 0),
        ([*ROWS, ZEROS], [1, 2, 3], 0),
        ([line.replace(b"\n", b"\r\n") for line in ROWS], [1, 2, 3], 0),
    ],
)
def test_damaged_lines_cost_no_other_row(tmp_path, caplog, lines, steps, damaged):
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(b"".join(lines))
    assert [row["step"] for row in read_metrics(file)] == steps
    MetricsLog(tmp_path, 3).close()
    assert [row["step"] for row in map(json.loads, file.read_text().splitlines())] == steps
    said = [record.getMessage() for record in caplog.records]
    assert said == ([f"{file}: {damaged} damaged lines left out"] if damaged else [])


def test_a_function_that_fails_is_left_alone_after_ten_times(tmp_path, caplog):
    """Each failure that is another one is told; one success begins the count again."""
    calls = []

    def on_metrics(row):
        calls.append(row["step"])
        if row["step"] not in (3, 6):
            raise ValueError("one" if row["step"] < 5 else f"no\nserver {row['step'] // 12}")

    log = MetricsLog(tmp_path, 0, on_metrics)
    for step in range(1, 20):
        log.write(step, "train", loss=math.inf)
    log.close()
    assert calls == list(range(1, 17)) and len(read_metrics(log.file)) == 19
    said = [record.getMessage().partition(" (")[0] for record in caplog.records]
    raised = ["ValueError: one", "ValueError: one", "ValueError: no server 0", "ValueError: no server 0"]
    raised = [f"on_metrics raised {words}" for words in [*raised, "ValueError: no server 1"]]
    assert said == [*raised, "on_metrics is not called again; 10 times in a row it raised ValueError: no server 1"]
