"""What `implementation="auto"` stands for: one table, and where the program will run."""

import functools
import logging
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from aa_flax.ops import cudnn
from aa_flax.ops.mesh import data_mesh
from aa_flax.ops.pallas_tpu.shape import Shape
from aa_flax.ops.platform import target_device_kind, target_platform

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Call:
    """What the choice may depend on."""

    platform: str  # "cpu", "gpu", "tpu"
    dtype: str
    height: int
    width: int
    num_heads: int
    key_depth: int  # per head
    value_depth: int  # per head
    positions: bool
    in_features: int  # of the projection, or of queries, keys and values together
    device_kind: str = ""  # as JAX names it; what a TPU's VMEM depends on
    divides: bool = True  # whether the ambient mesh divides the batch, as kernels need

    @property
    def places(self) -> int:
        """h*w."""
        return self.height * self.width


@dataclass(frozen=True)
class Entry:
    """A row of the table: the first that serves a call is taken."""

    platform: str
    dtypes: tuple[str, ...]
    smallest: int  # h*w
    largest: int
    widest: int  # folded width
    implementation: str
    because: str


_ANY = 1 << 30
# From 20x20 on, 8 heads of 256 images have 1.3 GB of weights in float32, of which the fold keeps some copies; below, at
# 14x14, 0.3 GB.
_LARGE = 400
# fmt: off
TABLE = (
    Entry("tpu", ("bfloat16", "float32"), 1, _ANY, _ANY, "pallas_tpu",
          "bytes moved and temporary memory, counted by the compiler: experiments/results/plan_v5e.json"),
    Entry("gpu", ("bfloat16", "float16"), 1, _ANY, cudnn.WIDEST, "cudnn",
          "bytes moved, counted: less than the fold from 5x11 to 32x32, experiments/results/attention_h100.json"),
    Entry("cpu", ("bfloat16", "float16", "float32", "float64"), 1, _ANY, _ANY, "folded_pieces",
          "fastest at every shape of experiments/results/attention_cpu_*.json"),
)
# fmt: on


def choose(
    dtype: Any,
    height: int,
    width: int,
    num_heads: int,
    key_depth: int,
    value_depth: int,
    positions: bool,
    in_features: int | None = None,
    batch: int | None = None,
) -> str:
    """The implementation for a map, depths per head; logged at level INFO once for each kind of call."""
    mesh, platform = data_mesh(), target_platform()
    in_features = in_features or num_heads * (2 * key_depth + value_depth)
    return _choose(
        Call(
            platform,
            jnp.dtype(dtype).name,
            height,
            width,
            num_heads,
            key_depth,
            value_depth,
            positions,
            in_features,
            target_device_kind() if platform == "tpu" else "",
            mesh is None or batch is None or batch % mesh.shape["data"] == 0,
        )
    )


@functools.cache
def _choose(call: Call) -> str:
    entry = next((entry for entry in TABLE if _serves(entry, call)), None)
    if entry is not None:
        implementation, because = entry.implementation, entry.because
    elif call.places >= _LARGE:
        implementation, because = "folded_pieces", "no row of the table serves it, and its weights would be many"
    else:
        implementation, because = "folded", "no row of the table serves it"
    _log.info("relative attention: %s for %s (%s)", implementation, call, because)
    return implementation


def _serves(entry: Entry, call: Call) -> bool:
    if entry.platform != call.platform or call.dtype not in entry.dtypes:
        return False
    if entry.implementation != "folded_pieces" and not call.divides:
        return False
    if entry.implementation == "pallas_tpu" and not _shape(call).fits(call.device_kind):
        return False
    width = cudnn.folded_width(call.height, call.width, call.key_depth, call.value_depth, call.positions)
    return entry.smallest <= call.places <= entry.largest and width <= entry.widest


def _shape(call: Call) -> Shape:
    return Shape(
        height=call.height,
        width=call.width,
        num_heads=call.num_heads,
        key_depth=call.key_depth,
        value_depth=call.value_depth,
        in_features=call.in_features,
        out_features=call.num_heads * call.value_depth,
        scale=1.0,
        positions=call.positions,
        dtype=jnp.dtype(call.dtype),
    )
