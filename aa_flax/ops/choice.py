"""Choice of an implementation of attention for "auto", from one table and the device that the program will run on."""

import functools
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp
from jax.export import is_symbolic_dim

from aa_flax.ops import cudnn
from aa_flax.ops.mesh import data_mesh
from aa_flax.ops.pallas_gpu.shape import Shape as GpuShape
from aa_flax.ops.pallas_tpu.shape import Shape
from aa_flax.ops.platform import kernels_allowed, target_capability, target_device_kind, target_platform

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Call:
    """Properties of a call that the choice may depend on."""

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
    kernels: bool = True  # whether they are allowed, and the batch is a number that the ambient mesh divides
    capability: tuple[int, int] | None = None  # of the GPU, where it is known
    cudnn: bool = False  # whether JAX finds it
    dimensions: int = 2  # kernels serve one and two

    @property
    def places(self) -> int:
        """The number of locations of the map, h*w."""
        return self.height * self.width


@dataclass(frozen=True)
class Entry:
    """A row of `TABLE`; the first row that serves a call is taken."""

    platform: str
    dtypes: tuple[str, ...]
    implementation: str
    because: str
    most_places: int | None = None  # the largest h*w of a map; None: no limit
    capability: tuple[int, int] | None = None  # the least that a GPU must have; an unknown one is taken to have it


# h*w of a 20x20 map. There the weights of 8 heads of 256 images take 1.3 GB in float32, and the fold keeps several such
# arrays; at 14x14 they take 0.3 GB.
_LARGE = 400
_H200 = "times with gradients on an H200: experiments/results/gpu_h200/attention.json"
_SMALL = 100  # h*w. On a GPU, XLA's fold is fastest at 8x8 and cuDNN at 14x14; no size between them was timed.
# fmt: off
TABLE = (
    Entry("tpu", ("bfloat16", "float32"), "pallas_tpu",
          "bytes moved and temporary memory, counted by the compiler: experiments/results/plan_v5e.json"),
    Entry("gpu", ("bfloat16", "float16"), "folded", _H200, most_places=_SMALL, capability=(9, 0)),
    Entry("gpu", ("bfloat16", "float16"), "cudnn", _H200, capability=(9, 0)),
    Entry("gpu", ("bfloat16", "float32"), "pallas_gpu",
          "bytes moved, counted for an H100 and not timed: experiments/results/attention_h100.json"),
    Entry("gpu", ("bfloat16", "float16"), "cudnn",
          "bytes moved, counted for an H100 and not timed: experiments/results/attention_h100.json"),
    Entry("cpu", ("bfloat16", "float16", "float32", "float64"), "folded_pieces",
          "times: experiments/results/attention_cpu_*.json; memory stays bounded"),
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
    batch: Any = None,
    dimensions: int = 2,
) -> str:
    """Return the implementation for a call, with depths per head, and log it (INFO) once for each kind of call.

    A signal is a map of height 1, and the height of a volume is that of its planes below each other.
    """
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
            kernels_allowed() and (batch is None or _divides(batch, mesh)),
            target_capability() if platform == "gpu" else None,
            platform == "gpu" and cudnn.available(),
            dimensions,
        )
    )


def without_kernel(platform: str, places: int) -> str:
    """Return the kind of fold for a map of h*w locations that no kernel serves: in pieces on CPUs or for large maps.

    A program of ONNX's operators has no loop over pieces.
    """
    in_pieces = platform == "cpu" or (places >= _LARGE and platform != "onnx")
    return "folded_pieces" if in_pieces else "folded"


@functools.cache
def _choose(call: Call) -> str:
    entry = next((entry for entry in TABLE if _serves(entry, call)), None)
    if entry is not None:
        implementation, because = entry.implementation, entry.because
    else:
        implementation, because = without_kernel(call.platform, call.places), "no row of the table serves it"
    _log.info("relative attention: %s for %s (%s)", implementation, call, because)
    return implementation


def _serves(entry: Entry, call: Call) -> bool:
    if entry.platform != call.platform or call.dtype not in entry.dtypes:
        return False
    if entry.most_places is not None and call.places > entry.most_places:
        return False
    if entry.capability and call.capability and call.capability < entry.capability:
        return False
    kernel_serves = _KERNELS.get(entry.implementation)
    return kernel_serves is None or (call.kernels and call.dimensions < 3 and kernel_serves(call))


def _divides(batch: Any, mesh: Any) -> bool:
    return not is_symbolic_dim(batch) and (mesh is None or batch % mesh.shape["data"] == 0)


def _fits_tpu(call: Call) -> bool:
    out_features = call.num_heads * call.value_depth
    return Shape(**_sizes(call), in_features=call.in_features, out_features=out_features).fits(call.device_kind)


def _fits_gpu(call: Call) -> bool:
    return GpuShape(**_sizes(call)).fits(call.capability)


def _sizes(call: Call) -> dict[str, Any]:
    """Return the fields that the shapes of both kernels share; the scale does not decide whether a call fits."""
    alike = ("height", "width", "num_heads", "key_depth", "value_depth", "positions")
    return {**{name: getattr(call, name) for name in alike}, "scale": 1.0, "dtype": jnp.dtype(call.dtype)}


def _cudnn_serves(call: Call) -> bool:
    sizes = call.height, call.width, call.key_depth, call.value_depth
    return call.cudnn and cudnn.refusal(call.dtype, *sizes, call.positions, capability=call.capability) is None


_KERNELS: Mapping[str, Callable[[Call], bool]] = MappingProxyType(
    {
        "pallas_tpu": _fits_tpu,
        "pallas_gpu": _fits_gpu,
        "cudnn": _cudnn_serves,
    }
)
"""Implementations that split a batch over the mesh, each with a function that says whether it serves a call."""
