"""Tests of the private names of other packages: they exist in what is installed, and one file alone uses any."""

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest
from absl import flags
from ml_collections import config_flags

from aa_flax.private_names import NAMES, cudnn_and_gpu, reason_for_no_config, shared_store

pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
PACKAGE = Path(__file__).parents[1] / "aa_flax"
OTHERS = "jax|jaxlib|flax|optax|orbax|etils|grain|tensorflow_datasets|array_record|absl|ml_collections|chex|jaxtyping"
PRIVATE = re.compile(rf"\b({OTHERS})(\.\w+)*\._[a-z]\w*")


def found(name):
    """Return what a dotted name leads to."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            thing = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            thing = getattr(thing, part)
        return thing
    raise ModuleNotFoundError(name)


def private_names(source):
    """Yield the private names of other packages in a file: imported, as attributes of what is imported, in strings."""
    tree = ast.parse(source)
    imported = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported.update({each.asname or each.name.partition(".")[0]: each.name for each in node.names})
            names = [each.name for each in node.names]
        elif isinstance(node, ast.ImportFrom):
            imported.update({each.asname or each.name: f"{node.module}.{each.name}" for each in node.names})
            names = [f"{node.module}.{each.name}" for each in node.names]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names = [node.value] if " " not in node.value else []
        else:
            continue
        yield from (name for name in names if PRIVATE.search(name))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            first, _, rest = ast.unparse(node).partition(".")
            name = f"{imported.get(first, '')}.{rest}"
            if PRIVATE.fullmatch(name):
                yield name


def test_one_file_uses_private_names():
    assert {*private_names("from jax._src import core\nimport jax as j\nj.numpy._x\n'flax.nnx._graph'\nself._own")} == {
        "jax._src.core",
        "jax.numpy._x",
        "flax.nnx._graph",
    }
    users = {file.name for file in PACKAGE.rglob("*.py") if [*private_names(file.read_text())]}
    assert users == {"private_names.py"}


@pytest.mark.parametrize("name", NAMES)
def test_what_is_installed_has_the_name(name):
    if name.endswith(".client"):
        assert hasattr(found(name.removesuffix(".client")), "client")  # None without other processes
    else:
        assert callable(found(name))


def test_the_store_of_several_processes_has_the_methods_that_meetings_use():
    assert shared_store() is None
    client = found("jax._src.lib._jax").DistributedRuntimeClient
    assert all(hasattr(client, name) for name in ("key_value_set", "key_value_try_get", "blocking_key_value_get"))


def test_jax_takes_answers_about_cudnn_and_the_gpu_while_they_are_given():
    module = found("jax._src.cudnn.fused_attention_stablehlo")
    before = module.check_cudnn_version
    assert list(inspect.signature(module.check_compute_capability).parameters) == ["capability"]
    with cudnn_and_gpu(91900, lambda capability: capability == "9.0"):
        assert module.check_cudnn_version() == 91900
        assert module.check_compute_capability("9.0") and not module.check_compute_capability("10.0")
    assert module.check_cudnn_version is before


def test_a_config_that_cannot_be_opened_says_why(tmp_path):
    file = tmp_path / "good.py"
    file.write_text("from ml_collections import ConfigDict\ndef get_config():\n    return ConfigDict()\n")
    for path, is_there in ((file, True), (tmp_path / "none.py", False)):
        values = flags.FlagValues()
        config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=["x"])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.argv", ["x", f"--config={path}"])
            values(["x", f"--config={path}"])
        assert (reason_for_no_config(values.config) is None) == is_there
    assert "none.py" in str(reason_for_no_config(values.config))
