import subprocess
import sys

import pytest

HEAVY = ("orbax", "tensorflow_datasets", "grain", "matplotlib", "tensorflow", "torch", "PIL", "array_record")


def modules_after(statement):
    code = f"import sys, jax, flax.nnx; before = set(sys.modules); {statement}; print(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.thorough
@pytest.mark.parametrize(
    "statement",
    [
        "import aa_flax.ops, aa_flax.layers, aa_flax.models, aa_flax.analysis",
        "from aa_flax.training import functional",
    ],
)
def test_importing_a_part_loads_nothing_heavy(statement):
    loaded = modules_after(statement)
    assert [name for name in HEAVY if name in loaded] == []


def test_subpackages_load_at_first_use():
    import aa_flax

    assert aa_flax.layers.AAConv2D.__name__ == "AAConv2D"
    assert callable(aa_flax.training.functional)  # and not a module of that name
    assert callable(aa_flax.analysis.attention_maps) and callable(aa_flax.layers.attention_depths)
    assert {"models", "hub", "load", "create_model"} <= {*dir(aa_flax)}
    assert aa_flax.create_model is aa_flax.models.create_model and "aa_resnet50" in aa_flax.list_models("aa_*")
    assert aa_flax.load is aa_flax.inference.load and callable(aa_flax.hub.save)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = aa_flax.nothing


def test_importing_the_library_loads_nothing_heavy_and_leaves_logging_to_the_program():
    code = (
        "import sys, jax, flax.nnx; before = set(sys.modules); import aa_flax\n"
        f"print(sorted({set(HEAVY)!r} & set(sys.modules) - before))\n"
        "import logging; from aa_flax.training import loop; from jax._src import xla_bridge\n"
        "logging.basicConfig(level=logging.INFO, format='mine %(message)s'); logging.info('text')\n"
        "print(xla_bridge.backends_are_initialized())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("[]\nFalse\n", "mine text\n")
