"""Measurements on a GPU within ten minutes, the most important first, each part in a process of its own.

    python -m experiments.benchmarks.gpu --out=FOLDER                         480 seconds
    python -m experiments.benchmarks.gpu --out=FOLDER --budget=240 --parts steps profile
    python -m experiments.benchmarks.gpu --out=FOLDER --rehearse              on the CPU, with small shapes
    python -m experiments.benchmarks.gpu --wheels=FOLDER                      for a machine without a network
    python -m experiments.benchmarks.gpu --out=FOLDER --compile=h100:1        only compiles the programs, without a GPU

FOLDER gets at most eight files: env.json, correct.json, attention.json, steps.json, timm.json, profile.json, extra.json
and summary.md. Numbers are written as soon as they are known. A part that fails or takes too long is named in the
summary and the others go on; implementations that are wrong or refuse are left out of later parts.

The machine needs jax with CUDA, flax, optax, Orbax, and for some parts PyTorch and timm. --wheels collects the other
packages that this library needs in a folder, on a machine with a network, for Python 3.12 on Linux on x86-64; --install
unpacks them for the run where packages are missing.

--compile needs JAX's CUDA plugin (`aa_flax[plan_gpu]`) and writes compiled.json: whether each program of the parts
correct, attention and steps compiles, and its memory; --parts may choose among them. A whole step takes a minute or
more.
"""

import argparse
import dataclasses
import importlib
import os
import shlex
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from experiments.benchmarks.gpu import packages, record, summary
from experiments.benchmarks.gpu.runner import Outcome, Part, run_parts
from experiments.benchmarks.gpu.settings import Setting

_ROOT = Path(__file__).parents[3]

PARTS = (
    Part("env", "env.json", 15),
    Part("correct", "correct.json", 60),
    Part("attention", "attention.json", 90),
    Part("steps", "steps.json", 200),
    Part("timm", "timm.json", 75),
    Part("profile", "profile.json", 30),
    Part("tiles", "extra.json", 0, most=90),
    Part("tests", "extra.json", 0, most=120),
    Part("pytorch", "extra.json", 0, most=90),
    Part("training", "extra.json", 0),
)
_BUDGET = 480.0
_REHEARSAL = 3  # factor of the limits: the machine may be slow, and nothing is measured
_LOOK_THEMSELVES = ("env", "timm", "tests")
"""Parts for which JAX's devices must not be started yet: they set XLA's flags first, or leave the card to others."""
_MODULES = {"timm": "timm_step", "profile": "profiled", "pytorch": "pytorch", "training": "training"}


def main() -> None:
    """Do what the arguments ask for: make wheels, compile, run one part, or run all."""
    arguments = parse()
    if arguments.wheels:
        packages.make(arguments.wheels)
    elif arguments.compile:
        from experiments.benchmarks.gpu import compiled

        raise SystemExit(compiled.run(arguments.compile, arguments.out, arguments.parts, _command(), arguments.commit))
    elif arguments.part:
        run_one(arguments)
    else:
        raise SystemExit(run_all(arguments))


def parse() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [part.name for part in PARTS]
    parser.add_argument("--out", type=_path, help="folder of the results")
    parser.add_argument("--budget", type=float, help=f"seconds of all parts together, {_BUDGET:.0f} if not given")
    parser.add_argument("--parts", nargs="+", choices=names, default=names, metavar="PART", help=", ".join(names))
    parser.add_argument("--data", type=_path, help="folder with cifar10_jpeg.npz or imagenette128_webp.npz to train on")
    parser.add_argument("--install", type=_path, metavar="FOLDER", help="of wheels, used where packages are missing")
    parser.add_argument("--cache", type=_path, help="folder of compiled programs, kept for the next run")
    parser.add_argument("--commit", default="", help="of the code, where it lies outside Git")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU with small shapes")
    parser.add_argument("--wheels", type=_path, metavar="FOLDER", help="make the folder of wheels, and nothing else")
    parser.add_argument("--compile", metavar="MACHINE", help="only compile, for a machine that is not there: h100:1")
    parser.add_argument("--part", choices=names, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--command", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not arguments.wheels and not arguments.out:
        parser.error("--out=FOLDER is needed, or --wheels=FOLDER")
    if arguments.out and arguments.out.exists() and not arguments.out.is_dir():
        parser.error(f"--out={arguments.out} is no folder")
    if arguments.data and not arguments.data.is_dir():
        parser.error(f"--data={arguments.data}: there is no such folder")
    if arguments.budget is not None and arguments.budget <= 0:
        parser.error(f"--budget must be above 0 seconds, got {arguments.budget:g}")
    return arguments


def _path(text: str) -> Path:
    """Return an absolute path, because the parts run in the checkout's folder."""
    return Path(text).resolve()


def run_one(arguments: argparse.Namespace) -> None:
    """Run one part, in this process."""
    setting = Setting(
        out=arguments.out,
        seconds=arguments.seconds,
        command=arguments.command,
        commit=arguments.commit,
        rehearse=arguments.rehearse,
        data=arguments.data,
    )
    if arguments.part not in _LOOK_THEMSELVES:
        setting.require_gpu()
    module: Any = importlib.import_module(f"experiments.benchmarks.gpu.{_MODULES.get(arguments.part, arguments.part)}")
    module.run(setting)


def run_all(arguments: argparse.Namespace) -> int:
    """Run all parts that are asked for; return how many did not end well."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the running part ends too
    arguments.out.mkdir(parents=True, exist_ok=True)
    command = _command()
    slower = _REHEARSAL if arguments.rehearse else 1
    chosen = [
        dataclasses.replace(part, seconds=slower * part.seconds, most=slower * part.most)
        for part in PARTS
        if part.name in arguments.parts
    ]
    budget = arguments.budget or slower * _BUDGET
    for part in chosen:
        (arguments.out / part.file).unlink(missing_ok=True)  # files of other parts stay, verdicts too
    with tempfile.TemporaryDirectory(prefix="aa_flax-gpu-") as scratch:
        site = packages.unpack(arguments.install, Path(scratch) / "site") if arguments.install else None
        cache = arguments.cache or Path(tempfile.gettempdir()) / f"aa_flax-gpu-cache-{os.getuid()}"
        log = Path(scratch) / "log.txt"

        def command_of(part: Part, limit: float) -> list[str]:
            own = [sys.executable, "-m", "experiments.benchmarks.gpu", f"--part={part.name}", f"--seconds={limit}"]
            own += [f"--out={arguments.out}", f"--command={command}", f"--commit={arguments.commit}"]
            own += [f"--data={arguments.data}"] if arguments.data else []
            return own + (["--rehearse"] if arguments.rehearse else [])

        def told(outcomes: list[Outcome]) -> None:
            record.sweep(arguments.out)
            record.write(arguments.out / "summary.md", summary.text(arguments.out, outcomes, command, log))

        os.chdir(_ROOT)
        outcomes = run_parts(chosen, budget, command_of, environment(arguments, site, cache), log, told)
    print((arguments.out / "summary.md").read_text())
    return sum(outcome.status != "done" for outcome in outcomes)


def _command() -> str:
    return shlex.join(["python", "-m", "experiments.benchmarks.gpu", *sys.argv[1:]])


def environment(arguments: argparse.Namespace, site: Path | None, cache: Path) -> dict[str, str]:
    """Return the environment variables of the parts."""
    paths = [str(_ROOT), *([str(site)] if site else []), os.environ.get("PYTHONPATH", "")]
    variables = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "PYTHONUNBUFFERED": "1",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # processes share the card
        "JAX_COMPILATION_CACHE_DIR": str(cache / "jax"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
        "TFDS_DATA_DIR": str(cache / "data"),
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "torch"),
    }
    if arguments.rehearse:
        variables |= {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return variables


if __name__ == "__main__":
    main()
