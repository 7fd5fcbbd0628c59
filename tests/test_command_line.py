"""Tests of the commands as a user types them, in processes of their own."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import forked
import numpy as np
import odd_names
import optax
import pytest
from PIL import Image

from aa_flax.data.preprocessing import Preprocessing
from aa_flax.literal import literal, told_apart
from aa_flax.runs.checkpoints import Checkpoints
from aa_flax.tasks import make_task
from aa_flax.training import RunDirectory, build_model, default_config, functional, resolve
from aa_flax.training.state import create_state

ROOT = Path(__file__).parents[1]
SMALL = [
    "--config.epochs=1",
    "--config.data.train_split=train[:200]",
    "--config.data.eval_split=test[:100]",
    "--config.eval_batch_size=50",
]


def fresh(*command, environment, cwd):
    """Run a command in a process that imports everything itself, as a user's does."""
    command = [sys.executable, *map(str, command)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=cwd, check=False)


def run(module, *arguments, code=0, start=forked.run):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_NUM_CPU_DEVICES": "1"}
    done = start("-m", f"aa_flax.{module}", *arguments, environment=environment, cwd=ROOT)
    assert done.returncode == code, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return the directory of a quickstart run on 200 images, its arguments, and the finished process."""
    folder = tmp_path_factory.mktemp("run")
    quickstart = [f"--config={ROOT}/experiments/quickstart.py", f"--config.data.data_dir={folder}/tfds", *SMALL]
    done = run("train", *quickstart, f"--workdir={folder}/aa", start=fresh)
    return folder / "aa", quickstart, done


def test_the_last_line_is_one_json_object(trained):
    workdir, _, done = trained
    result = json.loads(done.stdout.splitlines()[-1])
    assert 0 <= result["accuracy"] <= 1
    assert result["params"] == 72_826 and result["examples"] == 100
    assert result["train_seconds"] > 0 and result["workdir"] == str(workdir)
    assert "AA-WRN-10-1" in done.stdout and "Ankle boot" in done.stdout


def test_the_run_directory_is_complete(trained):
    workdir, _, _ = trained
    for picture in ("learning_curves.png", "confusion_matrix.png", "attention_maps.png"):
        assert np.asarray(Image.open(workdir / picture)).std() > 10, picture
    for file in ("config.json", "preprocessing.json", "metrics.jsonl", "result.json"):
        assert (workdir / file).stat().st_size > 100, file
    assert list(workdir.glob("events.out.tfevents*")) and (workdir / "checkpoints" / "3").is_dir()


def test_a_finished_run_prints_its_result_again_beside_another(trained):
    workdir, quickstart, done = trained
    again = run("train", *quickstart, f"--workdir={workdir}", f"--beside={workdir}")
    assert again.stdout.splitlines()[-1] == done.stdout.splitlines()[-1]
    assert "epoch 1/1" not in again.stdout
    assert again.stdout.count("AA-WRN-10-1") > done.stdout.count("AA-WRN-10-1")


def test_evaluate_agrees_with_training(trained):
    workdir, _, done = trained
    found = json.loads(run("evaluate", f"--workdir={workdir}").stdout.splitlines()[-1])
    assert found["accuracy"] == json.loads(done.stdout.splitlines()[-1])["accuracy"]
    assert found["examples"] == 100 and found["step"] == 3
    assert found["accuracy"] <= found["top5_accuracy"] == json.loads(done.stdout.splitlines()[-1])["top5_accuracy"]


def test_predict_names_classes_and_errors_do_not_hide_the_rest(trained, tmp_path):
    workdir, _, _ = trained
    Image.fromarray(np.full((60, 90, 3), 200, np.uint8)).save(tmp_path / "photo.jpg")
    (tmp_path / "broken.png").write_bytes(b"no")
    arguments = [f"--workdir={workdir}", "--top=10", tmp_path / "broken.png", tmp_path / "photo.jpg"]
    done = run("predict", *arguments, f"--attention={tmp_path}/maps", "--query=3,20", code=1)
    assert done.stderr.startswith(f"error: {tmp_path}/broken.png: not an image")
    lines = done.stdout.splitlines()
    assert lines[0] == f"{tmp_path}/photo.jpg"
    assert lines[-1] == f"  attention: {tmp_path}/maps/photo-attention.png"
    drawn = np.asarray(Image.open(tmp_path / "maps" / "photo-attention.png").convert("RGB")).astype(int)
    assert (drawn[..., 2] - drawn[..., 0] > 150).sum() > 20  # the mark of the query pixel in each panel
    shares = [float(line.split("%")[0]) for line in lines[1:-1]]
    assert len(shares) == 10 and shares == sorted(shares, reverse=True) and sum(shares) == pytest.approx(100, abs=0.1)


def rewrite(file, **values):
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, **{key: change(content[key]) for key, change in values.items()}}))


@pytest.mark.few(0)
@pytest.mark.parametrize(
    "names",
    [
        ("cat", "cat ", "cat\nbig", r"$\frac$", "[red]x", "x[/red]", "<b>", "\x1b[31mred", "\u202eabc", "\udcff\udcfe"),
        (*odd_names.SPACES[2:7], *odd_names.MARKUP[4:9]),
        odd_names.NAMES[-24:-14],
    ],
)
def test_names_are_printed_as_they_are(trained, names, tmp_path):
    """The classes of a finished run are renamed, in the run and in its data."""
    (workdir, quickstart, _), copy = trained, tmp_path / "run$x$"
    shutil.copytree(workdir, copy)
    shutil.copytree(workdir.parent / "tfds", tmp_path / "tfds")
    rewrite(copy / "preprocessing.json", class_names=lambda before: names)
    rewrite(copy / "config.json", data=lambda before: {**before, "data_dir": str(tmp_path / "tfds")})
    rewrite(copy / "result.json", accuracy_per_class=lambda before: dict(zip(names, before.values(), strict=True)))
    rewrite(next((tmp_path / "tfds").glob("*/1.0.0/metadata.json")), class_names=lambda before: names)
    shown = told_apart(names)
    evaluated = run("evaluate", f"--workdir={copy}").stdout
    assert [line.partition("%  ")[2].removesuffix(", no examples") for line in evaluated.splitlines()[:-1]] == shown

    photos = [tmp_path / f"{name}.png".replace("/", "") for name in ("[red]$x$", "\x1b[31m", "caf\udce9")]
    for photo in photos:
        Image.new("L", (9, 9)).save(photo)
    missing = tmp_path / "no\x1b[1m\nfile.png"
    predicted = run("predict", f"--workdir={copy}", "--top=10", *photos, missing, code=1)
    lines = predicted.stdout.splitlines()
    assert lines[::11] == [literal(str(photo)) for photo in photos]
    assert sorted(line.partition("%  ")[2] for line in lines[1:11]) == sorted(shown)
    assert predicted.stderr == f"error: {literal(str(missing))}: no such file\n"
    again = run("train", *quickstart, f"--workdir={copy}", f"--config.data.data_dir={tmp_path}/tfds").stdout
    for name in shown:
        assert any(line.strip("\u2502 ").startswith(name.strip()) for line in again.splitlines()), name
    assert all(map(odd_names.is_clean, (evaluated, predicted.stdout, predicted.stderr, again)))


@pytest.fixture
def untrained(tmp_path):
    """Return a function that makes the run directory of an untrained network of two classes."""

    def make(name, size, **options):
        config = default_config()
        config.model.name, config.model.options = name, options
        config = resolve(config)
        prepared = Preprocessing(size, 3, (0.5,) * 3, (0.25,) * 3, ("tench", "church"), "float32", "")
        directory = RunDirectory(tmp_path / name)
        directory.begin(config, prepared)
        _, params, batch_stats = functional(build_model(config, make_task(config, prepared)))
        with Checkpoints(directory.checkpoints) as checkpoints:
            checkpoints.save(create_state(params, batch_stats, optax.identity(), ema=False))
        return directory.path

    return make


@pytest.mark.thorough
def test_predict_draws_attention_pooling_at_a_larger_size(untrained, tmp_path, rng):
    workdir = untrained("patchconvnet_s60_multi", (32, 32), width=8, depth=1)
    photos = [tmp_path / "a" / "photo.jpg", tmp_path / "b" / "photo.png"]
    for photo in photos:
        photo.parent.mkdir()
        Image.fromarray(rng.integers(0, 256, (60, 90, 3), np.uint8)).save(photo)
    out = tmp_path / "new" / "maps"
    arguments = [f"--workdir={workdir}", f"--attention={out}", *photos]
    lines = run("predict", *arguments, "--image_size=64,96").stdout.splitlines()
    pictures = [out / "photo-attention.png", out / "photo-2-attention.png"]
    assert [line for line in lines if "attention:" in line] == [f"  attention: {picture}" for picture in pictures]
    assert sorted(out.iterdir()) == sorted(pictures)
    for picture in pictures:
        height, width, _ = np.asarray(Image.open(picture)).shape
        assert width > 2 * height  # four panels, each wider than high
    done = run("predict", *arguments, "--image_size=40", code=2)
    assert done.stderr.startswith("error: --image_size=40: images must have a height and a width that 16 divides")
    assert done.stderr.count("\n") == 1 and done.stdout == ""


def test_predict_says_that_there_is_no_attention(untrained, tmp_path):
    workdir = untrained("wide_resnet28_10", (8, 8), depth=10, widen_factor=1)
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / "photo.png")
    done = run("predict", f"--workdir={workdir}", f"--attention={tmp_path}/maps", tmp_path / "photo.png", code=2)
    assert done.stderr == (
        "error: --attention: this WideResNet has no attention to draw; networks named aa_* have, and all with "
        "pooling='attention'\n"
    )
    assert not (tmp_path / "maps").exists()


CONFIG_WITH_A_SLIP = """
from aa_flax.training import default_config

def get_config():
    config = default_config()
    config.optimizer.learnig_rate = 0.1
    return config
"""


@pytest.mark.few(2, thorough=6)
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config.optimizer.lr=1"], "error: unknown config field 'optimizer.lr'"),
        (["--config.epochs=two"], "error: flag --config.epochs=two: invalid literal"),
        (["--config.model.options.dept=10"], "has no option 'dept'; did you mean 'depth'"),
        (["--config.model.options.kappa"], "needs a value"),
        (["--workdr=x"], "error: Unknown command line flag 'workdr'. Did you mean: workdir"),
        (["--config.data.name=fashion"], "error: .*fashion.*"),
        (["--config=SLIP"], r"error: .*slip\.py, line 6: unknown config field 'learnig_rate'; did you mean"),
        (["--config=WRONG"], r"error: .*wrong\.py, line 6: TypeError: Could not override field 'optimizer'"),
        (["--config.model.options.attention_downsample=(2,1)"], "attention_downsample must be one whole number"),
        (["--config=nowhere.py"], "error: nowhere.py"),
        (["--config=/nowhere/x.py"], "error: .*/nowhere/x.py"),
    ],
)
def test_mistakes_end_in_one_line(arguments, words, tmp_path):
    (tmp_path / "slip.py").write_text(CONFIG_WITH_A_SLIP)
    if not arguments[0].startswith("--config="):
        arguments = [f"--config={ROOT}/experiments/quickstart.py", *arguments]
    (tmp_path / "wrong.py").write_text(CONFIG_WITH_A_SLIP.replace("optimizer.learnig_rate = 0.1", "optimizer = 3"))
    arguments = [a.replace("WRONG", str(tmp_path / "wrong.py")) for a in arguments]
    arguments = [a.replace("SLIP", str(tmp_path / "slip.py")) for a in arguments]
    environment_folder = [f"--config.data.data_dir={tmp_path}"]
    done = run("train", *arguments, *environment_folder, f"--workdir={tmp_path}/run", code=2)
    lines = [line for line in done.stderr.splitlines() if line]
    assert len(lines) == 1 and done.stdout == ""
    assert re.search(words, lines[0]), lines[0]
    assert not (tmp_path / "run").exists()


def test_evaluate_and_predict_refuse_what_is_no_run(tmp_path):
    for module, extra in (("evaluate", []), ("predict", ["x.png"])):
        done = run(module, f"--workdir={tmp_path}", *extra, code=2)
        assert done.stderr.strip() == f"error: {tmp_path} is not a run directory: it has no config.json"


@pytest.mark.thorough
def test_checkpoints_that_are_all_damaged_are_one_line_in_every_command(trained, tmp_path):
    workdir, _, _ = trained
    damaged = shutil.copytree(workdir, tmp_path / "run")
    for file in (damaged / "checkpoints").rglob("model/_METADATA"):
        file.write_bytes(b"{}")
    Image.new("L", (28, 28)).save(tmp_path / "photo.png")
    for module, *words in (
        ["evaluate"],
        ["predict", tmp_path / "photo.png"],
        ["checkpoints", "export", "w.safetensors"],
    ):
        told = run(module, f"--workdir={damaged}", *words, code=2).stderr
        assert told.splitlines()[-1].startswith("error: every checkpoint is damaged: ") and "Traceback" not in told


@pytest.mark.thorough
def test_an_empty_result_says_how_to_get_it_again(trained, tmp_path):
    workdir, quickstart, done = trained
    copied = shutil.copytree(workdir, tmp_path / "run")
    (copied / "result.json").write_bytes(b"")  # as after a power cut
    told = run("train", *quickstart, f"--workdir={copied}", code=2).stderr
    assert told.splitlines()[-1].endswith("without it the same command of train makes it again")
    (copied / "result.json").unlink()
    again = run("train", *quickstart, f"--workdir={copied}")
    before, after = (json.loads(each.stdout.splitlines()[-1]) for each in (done, again))
    assert after["accuracy"] == before["accuracy"] and after["loss"] == before["loss"] and after["finished"]
