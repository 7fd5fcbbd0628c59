"""Commands in processes of their own, each forked from a process that has only imported the library.

Importing takes seconds of processor time, and the tests start a hundred commands. `run` replaces `subprocess.run` and
`start` replaces `subprocess.Popen` for `python -m MODULE ...` and `python SCRIPT ...`. The forked process never starts
JAX's devices, so each command has its own devices, signals, threads and exit code. Only a fresh import is not tested.
"""

import atexit
import contextlib
import gc
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import threading
from multiprocessing.connection import Connection
from pathlib import Path

import jax

_context = multiprocessing.get_context("forkserver")
# Modules of commands are left out, because each defines its own flags.
_context.set_forkserver_preload(
    [
        *("aa_flax.analysis.results", "aa_flax.data.sets.own", "aa_flax.data.shrink", "aa_flax.data.check"),
        *("aa_flax.drawing.photo_attention", "aa_flax.tasks.display", "aa_flax.config.command_line"),
        *("aa_flax.training.loop", "aa_flax.training.replay", "aa_flax.weights.files", "tensorflow_datasets"),
    ]
)


def run(*command, environment=None, cwd=None):
    """Run a command to its end and return its exit code and output, as `subprocess.run` does."""
    command = [*map(str, command)]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = _forked(command, environment, cwd, [out.fileno(), err.fileno()])
        process.join()
        for file in (out, err):
            file.seek(0)
        return subprocess.CompletedProcess(command, process.exitcode, out.read(), err.read())


def start(*command, environment=None, cwd=None, both=False):
    """Start a command; its errors go to those of the tests, or with `both` to its `stdout`."""
    reader, writer = os.pipe()
    try:
        return Child(_forked([*map(str, command)], environment, cwd, [writer] * (1 + both)), os.fdopen(reader))
    finally:
        os.close(writer)


class Child:
    """A started command, with the part of `subprocess.Popen` that tests need."""

    def __init__(self, process, stdout):
        self._process, self.stdout = process, stdout
        self.pid, self.kill = process.pid, process.kill

    @property
    def returncode(self):
        return self._process.exitcode

    def poll(self):
        return self.returncode

    def wait(self, timeout=None):
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
        return self.returncode

    def send_signal(self, number):
        os.kill(self.pid, number)

    def communicate(self, timeout=None):
        read = []
        thread = threading.Thread(target=lambda: read.append(self.stdout.read()), daemon=True)
        thread.start()
        thread.join(timeout)
        self.wait(timeout)
        return read[0], None

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.wait()
        self.stdout.close()


def _forked(command, environment, cwd, outputs):
    """Start the process; `outputs` are descriptors for its standard output and, if there is a second, its errors."""
    inherited = [Connection(os.dup(output), readable=False) for output in outputs]
    environment = dict(os.environ if environment is None else environment)
    process = _context.Process(target=_become, args=(command, environment, str(cwd or Path.cwd()), inherited))
    process.start()
    for connection in inherited:
        connection.close()
    return process


def _become(command, environment, cwd, outputs):
    gc.freeze()  # what was imported is searched for cycles no more, and the rest as seldom as in the tests themselves
    gc.set_threshold(20_000, 20, 20)
    for number, output in enumerate(outputs, 1):
        os.dup2(output.fileno(), number)
        output.close()
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    given = environment.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = [path for path in given if path and path not in sys.path]
    settings = jax.config.values
    for name, value in environment.items():  # JAX reads its variables at import, which was before the fork
        if name.startswith("JAX_") and name.lower() in settings:
            before = settings[name.lower()]
            jax.config.update(name.lower(), value if before is None else type(before)(_plain(value)))
    try:
        if command[0] == "-m":
            sys.argv = command[1:]
            runpy.run_module(command[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = command
            runpy.run_path(command[0], run_name="__main__")
    finally:  # A fork ends without exit functions; in that of JAX, processes of one run wait for each other.
        atexit._run_exitfuncs()


def _plain(value):
    """Return a value as a number if it is one, so that "0" is false."""
    with contextlib.suppress(ValueError):
        return float(value)
    return value
