"""Choice of the device that the tests run on, before JAX is imported."""

import ast
import importlib.metadata
import os
from collections.abc import Sequence

_VARIABLE = "AA_FLAX_TESTS_ON"  # workers of pytest-xdist inherit it


def prepare(arguments: Sequence[str]) -> None:
    """Set JAX's environment variables for a command line of pytest; those that the user has set stay."""
    if wants_gpu(arguments):
        os.environ[_VARIABLE] = "gpu"
    if on_gpu():
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # workers share the card
    else:
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
        # Code generation takes most of the tests' time, for programs that run for milliseconds. The earlier passes of
        # XLA, which insert collectives for example, stay the same.
        os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
        given = os.environ.get("XLA_FLAGS", "")
        missing = [flag for flag in _quick_code_generation() if flag.partition("=")[0] not in given]
        os.environ["XLA_FLAGS"] = " ".join(filter(None, [*missing, given]))
    os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")


def on_gpu() -> bool:
    """Return whether the tests run on the GPU."""
    return os.environ.get(_VARIABLE) == "gpu"


def wants_gpu(arguments: Sequence[str]) -> bool:
    """Return whether the last `-m` selects tests marked gpu and no tests without a mark."""
    expression = ""
    for index, argument in enumerate(arguments):
        if argument == "-m" and index + 1 < len(arguments):
            expression = arguments[index + 1]
        elif argument.startswith("-m") and len(argument) > 2:
            expression = argument[2:].removeprefix("=")
    try:
        tree = ast.parse(expression.strip(), mode="eval").body
        return _holds(tree, {"gpu"}) and not _holds(tree, set())
    except (SyntaxError, ValueError):  # an empty expression, or one with more than names, and, or, not
        return False


def _quick_code_generation() -> list[str]:
    """Return flags of XLA's compiler for CPUs; it ends the process on a flag that it does not know."""
    flags = ["--xla_cpu_parallel_codegen_split_count=1"]  # each worker has one core
    if tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2])) < (0, 11):
        flags.append(
            "--xla_cpu_use_fusion_emitters=false"
        )  # those by MLIR take twice the time; later there are no other
    return flags


def _holds(tree: ast.expr, marks: set[str]) -> bool:
    if isinstance(tree, ast.Name):
        return tree.id in marks
    if isinstance(tree, ast.UnaryOp) and isinstance(tree.op, ast.Not):
        return not _holds(tree.operand, marks)
    if isinstance(tree, ast.BoolOp):
        return (all if isinstance(tree.op, ast.And) else any)(_holds(value, marks) for value in tree.values)
    raise ValueError(ast.unparse(tree))
