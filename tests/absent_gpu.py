"""Tracing and lowering for an NVIDIA GPU on a machine without one."""

import contextlib
import dataclasses
from collections.abc import Iterator

import jax

from aa_flax.ops.platform import traced_for


@contextlib.contextmanager
def absent_gpu() -> Iterator[None]:
    """Trace programs for an H100 inside the `with` block; lower them with `lowering_platforms=("cuda",)`.

    From version 0.11 on JAX must be given the device for which it compiles kernels.
    """
    fields = [field.name for field in dataclasses.fields(jax.sharding.AbstractDevice)]
    known = {"device_kind": "NVIDIA H100 80GB HBM3", "num_cores": None, "platform": "gpu"}
    device = jax.sharding.AbstractDevice(**{name: known[name] for name in fields})
    mesh = jax.sharding.AbstractMesh((), (), abstract_device=device)
    with traced_for("gpu"), jax.sharding.use_abstract_mesh(mesh):
        yield
