"""Tests of `python -m aa_flax.checkpoints` on a tiny run."""

import forked
import jax
import numpy as np
import pytest
from run_files import arrays, flip, rows

from aa_flax import weights
from aa_flax.runs.checkpoint_files import saved_steps
from aa_flax.training import RunDirectory, functional, resolve
from aa_flax.training.loop import train
from aa_flax.training.trained import load_model


def command(*arguments):
    return forked.run("-m", "aa_flax.checkpoints", *arguments)


@pytest.fixture
def workdir(plain_config, tmp_path):
    plain_config.keep_checkpoints = 9
    train(resolve(plain_config), tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.thorough
def test_list_verify_prune_export(workdir, tmp_path):
    flag = f"--workdir={workdir}"
    listed = command("list", flag).stdout.splitlines()
    accuracy = {row["step"]: row["accuracy"] for row in rows(workdir) if row["split"] == "eval"}
    assert [line.split()[0] for line in listed[1:]] == ["4", "8", "12", "16"]
    assert [line.split()[-1] for line in listed[1:]] == [f"{accuracy[step]:.4f}" for step in (4, 8, 12, 16)]
    first_best = max(accuracy, key=lambda step: (accuracy[step], -step))
    assert [line.split()[0] for line in listed[1:] if " best " in line] == [str(first_best)]

    for which, step in (("best", first_best), ("last", 16)):
        exported = command("export", flag, f"--checkpoint={which}", tmp_path / "w.safetensors")
        assert exported.stdout == f"step {step} in {tmp_path / 'w.safetensors'}\n"
    exported = command("export", flag, "--checkpoint=8", tmp_path / "w.safetensors")
    assert exported.stdout == f"step 8 in {tmp_path / 'w.safetensors'}\n"
    model, card = weights.load(tmp_path / "w.safetensors")
    expected, _ = load_model(RunDirectory(workdir), 8)
    for ours, theirs in zip(*(jax.tree.leaves(functional(m)[1:]) for m in (model, expected)), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert card["origin"]["step"] == 8

    flip(arrays(workdir / "checkpoints" / "12"))
    checked = command("verify", flag)
    assert checked.returncode == 1 and "12  " in checked.stdout and "other contents" in checked.stdout
    assert checked.stdout.count("as it was saved") == 3
    refused = command("export", flag, "--step=12", tmp_path / "x.safetensors")  # another name of the flag
    assert refused.returncode == 2 and "other contents" in refused.stderr and refused.stderr.count("\n") == 1
    assert command("verify", flag, "--delete_damaged").stdout.endswith("deleted: 12\n")

    with RunDirectory(workdir).locked():
        refused = command("prune", flag, "--keep=1")
        assert refused.returncode == 2 and "another process is training" in refused.stderr
    best = max((4, 8, 16), key=lambda step: (accuracy[step], -step))
    assert command("prune", flag, "--keep=1", "--keep_every=4000").returncode == 0
    assert saved_steps(workdir / "checkpoints") == sorted({16, best})
    assert command("prune", flag, "--keep=1", "--nokeep_best").returncode == 0
    assert saved_steps(workdir / "checkpoints") == [16]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["list"], "is not a run directory"),
        (["burn"], "expected list, verify, prune, or export and a file; got burn"),
        (["export"], "expected list, verify, prune, or export and a file; got export"),
        (["list", "--checkpoint=first"], "flag --checkpoint=first: must be last, best or the step of a checkpoint"),
    ],
)
def test_mistakes_are_one_line(tmp_path, arguments, words):
    done = command(*arguments, f"--workdir={tmp_path}")
    assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1
