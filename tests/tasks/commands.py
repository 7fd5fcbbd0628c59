"""The commands that tests of small runs call, and what all of these runs promise."""

import os

import forked
import numpy as np
from safetensors.numpy import load_file


def environment(folder, **more):
    own = {"JAX_NUM_CPU_DEVICES": "1", "JAX_COMPILATION_CACHE_DIR": str(folder / "cache")}
    return {**os.environ, **own, **more}


def run(folder, module, *arguments, code=0):
    """Return what a command prints; it is called in the folder."""
    done = forked.run("-m", f"aa_flax.{module}", *arguments, environment=environment(folder), cwd=folder)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def weights_of_both(folder):
    """Return the weights of the run "run" by name, after "again", stopped once, has ended with the same bits."""
    for more in (["--config.stop_after_epoch=1"], []):
        run(folder, "train", "--config=config.py", "--workdir=again", *more)
    tensors = []
    for name in ("run", "again"):
        run(folder, "checkpoints", "export", f"{name}.safetensors", f"--workdir={name}")
        tensors.append(load_file(folder / f"{name}.safetensors"))
    assert tensors[0].keys() == tensors[1].keys()
    for name, values in tensors[0].items():
        np.testing.assert_array_equal(values, tensors[1][name], err_msg=name)
    return tensors[0]
