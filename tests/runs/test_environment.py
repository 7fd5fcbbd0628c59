"""Tests of machines that lack something: each is told in one line, or the run goes on without."""

import errno
import fcntl
import logging
import os
import pwd
from pathlib import Path

import forked
import pytest

from aa_flax.config.command_line import run
from aa_flax.data import DataError
from aa_flax.data.locking import lock
from aa_flax.data.prepared import resolve_data_dir
from aa_flax.data.sets import own
from aa_flax.runs.directory import RunDirectory, RunDirectoryError

ROOT = Path(__file__).parents[2]


@pytest.mark.few
@pytest.mark.parametrize("command", ["sheet", "train"])
@pytest.mark.parametrize("platforms", ["cuda", "tpu", "nonsense", "cpu,tpu"])
def test_no_device_is_one_line(data_dir, tmp_path, command, platforms):
    config = [f"--config={ROOT}/experiments/quickstart.py", f"--config.data.data_dir={data_dir}"]
    more = {"sheet": ["--rows=1", "--columns=1", f"--out={tmp_path}/s.png"], "train": [f"--workdir={tmp_path}/run"]}
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": platforms}
    done = forked.run("-m", f"aa_flax.{command}", *config, *more[command], environment=environment, cwd=ROOT)
    lines = done.stderr.splitlines()
    assert done.returncode == 2 and done.stdout == "", done.stderr
    assert lines[-1].startswith(f"error: JAX has no device to compute on (JAX_PLATFORMS={platforms}): ")
    # libtpu, where it is installed, prints lines of its own.
    assert (len(lines) == 1 or "tpu" in platforms) and "Traceback" not in done.stderr, done.stderr
    assert not (tmp_path / "run").exists()


def test_other_errors_keep_their_traceback(monkeypatch):
    monkeypatch.setattr("sys.argv", ["command"])
    for error in (AssertionError(), AssertionError("a reason"), RuntimeError("another")):

        def main(argv, values, error=error):
            raise error

        with pytest.raises(type(error)):
            run(main)


@pytest.fixture
def no_home(monkeypatch):
    """Take the home directory away: no HOME, and a user that the system does not know, as in many containers."""

    def unknown(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


def test_without_a_home_directory(no_home, tmp_path, monkeypatch):
    with pytest.raises(
        DataError, match=r"~/tensorflow_datasets cannot be found without a home directory.*TFDS_DATA_DIR"
    ):
        resolve_data_dir("")
    with pytest.raises(DataError, match="data_dir: ~/mine cannot be found"):
        resolve_data_dir("~/mine")
    with pytest.raises(RunDirectoryError, match="~/run: no such home directory, or HOME is not set"):
        RunDirectory(Path("~/run"))
    assert resolve_data_dir(tmp_path) == RunDirectory(tmp_path).path == tmp_path
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert resolve_data_dir("") == tmp_path


def test_any_path_of_a_command_without_a_home_directory(no_home, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["command"])
    with pytest.raises(SystemExit) as ended:
        run(lambda argv, values: Path("~/weights.safetensors").expanduser() and None)
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: a path begins with ~, and there is no home directory here")


@pytest.fixture(params=[errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def no_locks(monkeypatch, request):
    """Take the locks away, as on NFS without its lock daemon or Lustre mounted without them."""

    def flock(*_):
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", flock)


def test_a_run_on_a_disk_without_locks_goes_on_with_a_warning(no_locks, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "absl"), RunDirectory(tmp_path / "run").locked():
        assert (tmp_path / "run" / ".lock").exists()
    (record,) = caplog.records
    assert f"{tmp_path}/run/.lock: this file system has no locks" in record.getMessage()
    assert "\n" not in record.getMessage()


def test_without_locks_nothing_that_may_be_in_use_is_removed(no_locks, tmp_path, monkeypatch):
    left = tmp_path / own.stored_name("fashion_mnist_subset") / "1.0.0.incomplete_ABC"
    left.mkdir(parents=True)
    made = []
    monkeypatch.setattr(own, "make_builder", lambda *_: pytest.fail("stop") if made else made.append(1))
    with own._locked(tmp_path, "x") as alone:
        assert not alone
        with pytest.raises(AttributeError):  # the builder above is none
            own._write(own.EMBEDDED["fashion_mnist_subset"](), {}, tmp_path, alone)
    assert left.is_dir()


def test_a_lock_that_another_holds_is_not_missing(tmp_path):
    with (tmp_path / "a").open("w") as one, (tmp_path / "a").open("w") as other:
        assert lock(one, wait=False)
        with pytest.raises(BlockingIOError):
            lock(other, wait=False)
    directory = RunDirectory(tmp_path)
    with (
        directory.locked(),
        pytest.raises(RunDirectoryError, match="another process is training in"),
        directory.locked(),
    ):
        pass
