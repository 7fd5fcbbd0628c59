"""Functions that start and finish several processes of one run on this machine."""

import os
import socket

import forked

DEVICES = 4  # of all processes together


def free_port():
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


def start(count, script, *arguments, cache, more=None):
    """Start `count` processes of a script as one run, with `DEVICES` devices in total; `more` is of the environment."""
    port = free_port()
    processes = []
    for index in range(count):
        environment = {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": str(DEVICES // count),
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            **(more or {}),
        }
        if count > 1:
            environment |= {
                "AA_FLAX_COORDINATOR": f"localhost:{port}",
                "AA_FLAX_PROCESS_COUNT": str(count),
                "AA_FLAX_PROCESS_INDEX": str(index),
            }
        command = [script, *arguments]
        processes.append(forked.start(*command, environment=environment, both=True))
    return processes


def finish(processes, timeout=300):
    """Return the output of each process when all have ended."""
    try:
        return [process.communicate(timeout=timeout)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
            process.stdout.close()
