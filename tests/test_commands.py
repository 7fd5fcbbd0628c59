"""Tests of the program `aa-flax` and of shells' completion for it."""

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from aa_flax import commands
from aa_flax.completion import script
from aa_flax.config.named import config_names
from aa_flax.finetune import how_to_use

ROOT = Path(__file__).parents[1]
NAMES = ("quickstart", "imagenet/aa_resnet50", "imagenet/aa_resnet34", "cifar/wide_resnet28_10")


def called(monkeypatch, *words):
    """Call the program with these words and return its exit status."""
    monkeypatch.setattr(sys, "argv", ["aa-flax", *words])
    try:
        commands.main()
    except SystemExit as ended:
        return ended.code
    return 0


def program(*words):
    """Run the program in a process of its own."""
    command = [sys.executable, "-m", "aa_flax", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


def test_every_module_that_runs_is_a_command():
    package = ROOT / "aa_flax"
    modules = [file for file in package.glob("*.py") if 'if __name__ == "__main__"' in file.read_text()]
    found = {file.stem for file in modules} | {file.parent.name for file in package.glob("*/__main__.py")}
    assert found - {"__main__"} == {*commands.COMMANDS}


def test_help_lists_the_commands_with_what_they_do(monkeypatch, capsys):
    assert called(monkeypatch, "--help") == 0
    out = capsys.readouterr().out
    assert re.search("^  train +Train a network$", out, re.MULTILINE)
    assert re.search("^  weights +Import PyTorch's weights or export this library's$", out, re.MULTILINE)
    assert called(monkeypatch) == 2 and capsys.readouterr() == ("", out)
    assert all(line.count("  ") and len(line) < 100 for line in out.splitlines() if line.startswith(" "))


def test_version_and_unknown_commands(monkeypatch, capsys):
    assert called(monkeypatch, "--version") == 0
    assert re.fullmatch(r"aa_flax \d+\.\d+\.\d+\S*\n", capsys.readouterr().out)
    assert called(monkeypatch, "trian") == 2
    assert capsys.readouterr().err == "error: unknown command 'trian'; did you mean train?\n"
    assert called(monkeypatch, "xyz\x1b[1m") == 2
    assert re.fullmatch(r"error: unknown command '[ -~]+'; `aa-flax --help` lists them\n", capsys.readouterr().err)


def test_a_command_gets_the_words_after_it():
    listed, told, mistyped = (program("configs", *words) for words in ([], [NAMES[1]], ["aa_resnet50"]))
    assert listed.stdout.splitlines() == config_names()
    assert told.stdout.startswith(f"{ROOT}/experiments/imagenet/aa_resnet50.py\n\nAA-ResNet-50 on ImageNet")
    assert mistyped.returncode == 2 and "did you mean imagenet/aa_resnet50?" in mistyped.stderr
    assert program("configs", "--help").stdout.startswith("usage: aa-flax configs [-h] [name]")


def test_a_module_in_the_working_directory_is_found_and_hides_no_other(tmp_path, monkeypatch):
    """As with `python -m`, for `task.name=module:Class`; but last on the path."""
    monkeypatch.setattr(commands.runpy, "run_module", lambda *arguments, **options: None)
    (tmp_path / "json.py").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert called(monkeypatch, "train", "--config=x") == 0
    assert sys.argv == ["aa-flax train", "--config=x"] and sys.path[-1] == ""


def test_what_needs_no_network_imports_nothing_for_one():
    for words in (["--help"], ["--version"], ["configs"], ["completion", "bash"]):
        code = (
            f"import sys; sys.argv = ['aa-flax', *{words!r}]; from aa_flax.commands import main; main()\n"
            "print({'numpy', 'jax', 'absl', 'ml_collections', 'rich'} & {*sys.modules})"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
        assert done.stdout.endswith("set()\n")


def completed(words, cwd):
    """Return what bash completes a command line to, whose last word is where TAB is pressed; "=" is a word."""
    code = [
        f"aa-flax() {{ printf '%s\\n' {' '.join(NAMES)}; }}",
        script("bash"),
        "compopt() { :; }",  # it works only while a person completes
        f"COMP_WORDS=({' '.join(map(repr, words))}) COMP_CWORD={len(words) - 1}",
        "_aa_flax; printf '%s\\n' \"${COMPREPLY[@]}\"",
    ]
    done = subprocess.run(["bash", "-c", "\n".join(code)], capture_output=True, text=True, cwd=cwd, check=True)
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_bash_completes_commands_configs_and_folders(tmp_path):
    (tmp_path / "mine.py").touch()
    (tmp_path / "notes.txt").touch()
    (tmp_path / "runs" / "my photos é").mkdir(parents=True)
    at = [*("aa-flax", "train", "--config", "=")]
    assert completed(["aa-flax", "pr"], tmp_path) == ["predict"]
    assert {*completed(["aa-flax", ""], tmp_path)} == {*commands.COMMANDS, "--help", "--version"}
    assert completed(["aa-flax", "train", "--c"], tmp_path) == ["--config="]
    assert completed(at, tmp_path) == [*NAMES, "mine.py"]
    assert completed([*at, "imagenet/aa"], tmp_path) == ["imagenet/aa_resnet50", "imagenet/aa_resnet34"]
    assert completed(["aa-flax", "train", "--config", "cif"], tmp_path) == ["cifar/wide_resnet28_10"]
    assert completed(["aa-flax", "train", "--workdir", "=", "ru"], tmp_path) == ["runs"]
    assert completed(["aa-flax", "train", "--workdir", "=", "runs/m"], tmp_path) == ["runs/my photos é"]
    assert completed(["aa-flax", "finetune", "--f"], tmp_path) == ["--from="]
    assert completed(["aa-flax", "finetune", "--from", "=", "no"], tmp_path) == ["notes.txt"]
    assert completed(["aa-flax", "configs", "q"], tmp_path) == ["quickstart"]


def test_what_is_printed_to_be_pasted_is_quoted(tmp_path):
    folder = tmp_path / "Mes photos d'été"
    folder.mkdir()
    _, python, shell = how_to_use(folder)
    (given,) = [
        each.value
        for each in ast.walk(ast.parse(python.partition(":")[2].strip()))
        if each.__class__ is ast.Constant and "/" in each.value
    ]
    assert given == str(folder)
    assert shlex.split(shell.partition(":")[2]) == ["aa-flax", "predict", f"--workdir={folder}", "photo.jpg"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_read_their_completion(shell, tmp_path):
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell}")
    file = tmp_path / "completion"
    file.write_text(script(shell))
    done = subprocess.run([shell, "-n", file], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert all(command in script(shell) for command in commands.COMMANDS)


@pytest.mark.skipif(shutil.which("fish") is None, reason="there is no fish")
def test_fish_completes_commands_and_configs(tmp_path):
    (tmp_path / "aa-flax").write_text(f"#!/bin/sh\nprintf '%s\\n' {' '.join(NAMES)}\n")
    (tmp_path / "aa-flax").chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    for line, expected in (
        ("aa-flax pre", ["predict"]),
        ("aa-flax train --config=imagenet/aa_resnet5", ["--config=imagenet/aa_resnet50"]),
        ("aa-flax configs qui", ["quickstart"]),
    ):
        code = f"{script('fish')}\ncomplete -C '{line}'"
        done = subprocess.run(["fish", "-c", code], capture_output=True, text=True, env=environment, check=True)
        assert [each.split("\t")[0] for each in done.stdout.splitlines()] == expected


def test_configs_are_listed_to_a_reader_that_goes():
    command = [sys.executable, "-m", "aa_flax", "configs"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as child:
        child.stdout.close()
        assert child.stderr.read() == b""
