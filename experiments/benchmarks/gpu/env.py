"""The machine: versions, card, driver, two measured peaks, and the description by which XLA compiles for this card."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from aa_flax.analysis.provenance import package_version
from experiments.benchmarks.gpu.settings import Setting

_PACKAGES = (
    "jax-cuda13-plugin",
    "jax-cuda12-plugin",
    "nvidia-cudnn-cu13",
    "nvidia-cudnn-cu12",
    "torch",
    "triton",
    "timm",
)
_ASKED = "name,driver_version,memory.total,clocks.max.sm,clocks.max.memory,power.limit,compute_cap,vbios_version"


def run(setting: Setting) -> None:
    """Write all of this, the quick parts first."""
    dump = Path(tempfile.mkdtemp())
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_dump_to={dump}"  # before JAX reads it
    try:
        record = setting.record("env.json", packages=_versions(), **_driver())
        import jax

        jax.config.update("jax_enable_compilation_cache", False)  # programs from the cache are not dumped
        setting.require_gpu()
        device = jax.devices()[0]
        record.put(platform=device.platform, platform_version=device.client.platform_version)
        record.put(memory_bytes=(device.memory_stats() or {}).get("bytes_limit"))
        jax.jit(lambda x: x + 1).lower(0.0).compile()
        record.put(target_config=target_config(dump))
        for name, value in _ceilings(setting).items():
            record.put(**{name: value})
            print(f"{name} {value:.4g}", flush=True)
    finally:
        shutil.rmtree(dump, ignore_errors=True)


def target_config(dump: Path) -> str | None:
    """Return the target description among what XLA dumped, None where the platform has none."""
    files = sorted(dump.glob("*gpu_target_config*"))
    return files[0].read_text() if files else None


def _versions() -> dict[str, str]:
    return {name: found for name in _PACKAGES if (found := package_version(name))}


def _driver() -> dict[str, Any]:
    """Return what nvidia-smi prints; no setting of the card is changed."""
    try:
        command = ["nvidia-smi", f"--query-gpu={_ASKED}", "--format=csv,noheader"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"nvidia_smi": f"not available: {type(error).__name__}"}
    if done.returncode:
        return {"nvidia_smi": done.stderr.strip()[:300]}
    values = [value.strip() for value in done.stdout.splitlines()[0].split(",")]
    return {"nvidia_smi": dict(zip(_ASKED.split(","), values, strict=False)), "driver": values[1]}


def _ceilings(setting: Setting) -> dict[str, float]:
    """Return bytes per second of an addition, read and written, and operations per second of a bfloat16 product."""
    import jax
    import jax.numpy as jnp

    from experiments.benchmarks import timing

    length, side = setting.pick((1 << 30, 8192), (1 << 20, 128))
    key = jax.random.key(0)
    numbers = jax.random.bits(key, (length,), jnp.uint32)
    factors = jax.random.normal(key, (2, side, side), jnp.bfloat16)
    programs = {
        "copy": timing.jax_program(jax.jit(lambda x: x + jnp.uint32(1)), numbers),
        "product": timing.jax_program(jax.jit(lambda x: x[0] @ x[1]), factors),
    }
    times = timing.take_turns(programs, rounds=5, seconds=max(1.0, setting.left() / 2))
    seconds = {name: timing.median(each) / 1e3 for name, each in times.items()}
    return {
        "copy_bytes_per_second": 2 * numbers.nbytes / seconds["copy"],
        "bfloat16_product_flops_per_second": 2 * side**3 / seconds["product"],
    }
