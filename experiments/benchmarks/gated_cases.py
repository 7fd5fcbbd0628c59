"""The layers for which forms of the gated convolution are compared: ResNet-50's, Wide-ResNet-28-10's, MnasNet-A1's."""

from typing import Any, NamedTuple

import jax

from aa_flax.ops import gated_convolution
from aa_flax.ops.gated_convolution import Forms


class Layer(NamedTuple):
    """A layer on a square map, with as many channels out as in.

    The gate has one number for each position of the kernel and output channel ("expand").
    """

    side: int
    channels: int
    kernel_size: int
    depthwise: bool

    @property
    def label(self) -> str:
        """The name of the layer in tables."""
        return f"{self.side}²×{self.channels} {'depthwise ' if self.depthwise else ''}k{self.kernel_size}"


LAYERS = (
    Layer(56, 64, 3, False),
    Layer(28, 128, 3, False),
    Layer(14, 256, 3, False),
    Layer(7, 512, 3, False),
    Layer(32, 160, 3, False),
    Layer(16, 320, 3, False),
    Layer(8, 640, 3, False),
    Layer(28, 120, 5, True),
    Layer(14, 480, 3, True),
    Layer(7, 960, 5, True),
)
PARTS = ("forward", "inputs", "weights")
"""The convolution, its gradient by the input, and that by kernel and gate."""


def shapes(layer: Layer, batch: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of input, kernel, gate and the gradient of the output."""
    c, k = layer.channels, layer.kernel_size
    x = (batch, layer.side, layer.side, c)
    return {"x": x, "kernel": (k, k, 1 if layer.depthwise else c, c), "gate": (batch, k, k, 1, c), "dy": x}


def program(layer: Layer, form: str, part: str) -> Any:
    """Return the function of these four arrays that computes one part; form "plain" uses no gate."""
    pad = layer.kernel_size // 2
    groups = layer.channels if layer.depthwise else 1
    padding = ((pad, pad), (pad, pad))

    def gated(x: jax.Array, kernel: jax.Array, gate: jax.Array) -> jax.Array:
        forms = Forms(form, form, form)
        return gated_convolution(x, kernel, gate, padding=padding, groups=groups, implementation=forms)

    def plain(x: jax.Array, kernel: jax.Array, gate: jax.Array) -> jax.Array:
        del gate
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), padding, dimension_numbers=numbers, feature_group_count=groups
        )

    convolve = plain if form == "plain" else gated

    def run(x: jax.Array, kernel: jax.Array, gate: jax.Array, dy: jax.Array) -> Any:
        if part == "forward":
            return convolve(x, kernel, gate)
        _, pullback = jax.vjp(convolve, x, kernel, gate)
        dx, *weights = pullback(dy)
        return dx if part == "inputs" else weights[: 1 if form == "plain" else 2]

    return run
