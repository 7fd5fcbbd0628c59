# @title Set-up: nothing in a checkout with its requirements; on Colab the library, beside the jax of its accelerator
import importlib
import importlib.metadata
import importlib.util
import pathlib
import shutil
import subprocess
import sys

LIBRARY = "aa_flax[detection] @ git+https://github.com/aa-flax/aa_flax"
OLDEST_JAX = "0.10.2"


def needed(installed, gpu, tpu):
    """Return what pip is to install, given the versions that are installed and whether there is a GPU or a TPU."""
    numbers = [[int(n) for n in version.split(".")[:3]] for version in (installed.get("jax", "0"), OLDEST_JAX)]
    if numbers[0] >= numbers[1]:  # new enough, with what its accelerator needs: it stays
        return [LIBRARY, *(f"{name}=={installed[name]}" for name in ("jax", "jaxlib") if name in installed)]
    known = {"cuda13": "jax-cuda13-plugin", "cuda12": "jax-cuda12-plugin", "tpu": "libtpu"}
    extras = [extra for extra, plugin in known.items() if plugin in installed]
    extra = (extras or ["cuda12"] * gpu or ["tpu"] * tpu or [""])[0]
    return [LIBRARY, f"jax[{extra}]>={OLDEST_JAX}" if extra else f"jax>={OLDEST_JAX}"]


if pathlib.Path("../aa_flax/__init__.py").exists():
    sys.path.insert(0, str(pathlib.Path("..").resolve()))
elif importlib.util.find_spec("aa_flax") is None:
    found = importlib.metadata.distributions()
    installed = {each.metadata["Name"].lower().replace("_", "-"): each.version for each in found}
    gpu = shutil.which("nvidia-smi") is not None
    tpu = any(pathlib.Path("/dev").glob("accel*")) or any(pathlib.Path("/dev/vfio").glob("[0-9]*"))
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *needed(installed, gpu, tpu)], check=True)
    importlib.invalidate_caches()
    loaded = [name for name in ("numpy", "jax") if name in sys.modules]
    if stale := [name for name in loaded if importlib.metadata.version(name) != sys.modules[name].__version__]:
        print(f"Restart the session and run this again: a newer {' and '.join(stale)} was installed.")
