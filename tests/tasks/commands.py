"""The commands that tests of small runs call, and what all of these runs promise."""

import os
import shutil

import forked
import jax
from run_files import assert_same, final_state

from aa_flax.runs.checkpoint_files import saved_steps


def environment(folder, **more):
    own = {"JAX_NUM_CPU_DEVICES": "1", "JAX_COMPILATION_CACHE_DIR": str(folder / "cache")}
    return {**os.environ, **own, **more}


def run(folder, module, *arguments, code=0):
    """Return what a command prints; it is called in the folder."""
    done = forked.run("-m", f"aa_flax.{module}", *arguments, environment=environment(folder), cwd=folder)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def weights_of_both(folder, run=run):
    """Return the weights of the finished run "run" by name, after "again" has ended with the same bits.

    "again" is what a kill in the last epoch leaves of "run", and goes on from the checkpoint before.
    """
    shutil.copytree(
        folder / "run", folder / "again", ignore=shutil.ignore_patterns("*.png", "detections.json", "masks.json")
    )
    (folder / "again" / "result.json").unlink()
    *before, last = saved_steps(folder / "again" / "checkpoints")
    shutil.rmtree(folder / "again" / "checkpoints" / str(last))
    assert before
    run(folder, "train", "--config=config.py", "--workdir=again")
    states = [final_state(folder / name) for name in ("run", "again")]
    assert_same(*states)
    assert int(states[0].step) == last
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in jax.tree.leaves_with_path(states[0].params)
    }
