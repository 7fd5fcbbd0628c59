"""The attention-augmented convolution (Bello et al., 2019, section 3)."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from aa_flax.layers.aa_settings import check_settings
from aa_flax.layers.attention_depths import ValueRounding, attention_depths
from aa_flax.layers.convolve import convolve, leaves_room
from aa_flax.layers.initializers import glorot_uniform, normal
from aa_flax.layers.position import Position, with_position
from aa_flax.ops import average_pool, convolution, relative_attention_weights_2d, resize_relative_table
from aa_flax.ops.concatenation import concatenated
from aa_flax.ops.multi_head_attention import Projection, as_attention_reads, heads_of, multi_head_attention
from aa_flax.ops.normalized import normalized
from aa_flax.ops.tables import TableResize


class AAConv2D(nnx.Module):
    """A convolution of which some output channels are global self-attention over the map.

        AAConv(X) = concat[Conv(X), MHA(X)]        out - dv channels of convolution, then dv of attention
        MHA(X)    = concat over heads of softmax((Q Kᵀ + S_H + S_W) / sqrt(dk per head)) V, then W_O

    Sub-modules: `conv` k×k; `qkv` 1×1, output channels q, k, v in this order, each head-major; `out` 1×1; parameters
    `rel_height` [2h-1, dk per head] and `rel_width` [2w-1, dk per head], shared by the heads. What a setting leaves out
    is None. There is no batch norm inside: the paper normalises after the concatenation, which is left to the network.

    Where the paper is silent: with strides the attention input is average-pooled by the stride (3×3, padding not
    counted), so that both branches have the same size; `attention_downsample` pools once more in the same way, and the
    attended map is upsampled bilinearly (half-pixel centres) to the convolution's size.

    Any height and width are accepted at call time: `spatial_shape` is only the size that the tables are made for.
    Smaller maps use a slice of the tables, which is exact; for larger ones see `table_resize`.

    Under a mesh with an axis "model" of more than one device, the heads are split over its devices.

    Args:
        in_features, out_features: channels of the input and of the output.
        kernel_size: odd, of the convolution; padding (kernel_size - 1) // 2.
        strides: of the convolution, the same on both axes.
        num_heads: n; divides key and value depth.
        kappa, upsilon: key and value depth as ratios to out_features, through `attention_depths`.
        key_depth, value_depth: total depths, instead of the ratios and the minimum. With a value depth of 0 the layer
            is a plain convolution, with one of out_features it has no convolution.
        min_key_depth_per_head, value_rounding: see `attention_depths`.
        spatial_shape: (h, w) of the map on which attention runs, ceil(ceil(H / strides) / attention_downsample); may be
            None if there are no tables.
        attention_downsample: factor by which the attention's input is pooled once more.
        position: "relative", "none", "sine" (two-dimensional sinusoids added to the attention input; the paper does not
            say added or concatenated) or "coordconv" (x, y and r concatenated to the attention input only).
        table_resize: "linear", "clamp" or "error", see `aa_flax.ops.resize_relative_table`.
        table_init: of the tables, by default a normal distribution with standard deviation (dk per head)**-0.5. The
            authors' listing passes that number as the mean, with standard deviation 1, which looks like a mistake:
            `aa_flax.layers.initializers.normal(1.0, mean)` reproduces it.
        use_bias: whether conv, qkv and out have biases. The published parameter counts require False; the authors'
            listing has biases.
        implementation: of the attention, see `aa_flax.ops.relative_attention_2d`.
        kernel_init, attention_init: of `conv`, and of `qkv` and `out`; Glorot-uniform as in the authors' framework.
        convolution_layer: builds `conv`, called as `convolution_layer(in_features, out - dv, kernel_size=...,
            strides=..., dtype=..., param_dtype=..., rngs=...)`, for example `aa_flax.layers.AWConv2D`; None is an
            `nnx.Conv` with `use_bias` and `kernel_init`.

    Raises:
        ValueError: settings that are impossible alone or together; at call time a channel count or rank that does not
            fit.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int,
        *,
        strides: int = 1,
        num_heads: int = 8,
        kappa: float = 0.2,
        upsilon: float = 0.1,
        key_depth: int | None = None,
        value_depth: int | None = None,
        min_key_depth_per_head: int = 20,
        value_rounding: ValueRounding = "floor",
        spatial_shape: tuple[int, int] | None,
        attention_downsample: int = 1,
        position: Position = "relative",
        table_resize: TableResize = "linear",
        table_init: nnx.Initializer | None = None,
        use_bias: bool = False,
        implementation: str = "auto",
        kernel_init: nnx.Initializer = glorot_uniform,
        attention_init: nnx.Initializer = glorot_uniform,
        convolution_layer: Callable[..., nnx.Module] | None = None,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        ratio_key, ratio_value = attention_depths(
            out_features, kappa, upsilon, num_heads, min_key_depth_per_head, value_rounding
        )
        self.in_features = in_features
        self.out_features = out_features
        self.strides = strides
        self.num_heads = num_heads
        self.key_depth = ratio_key if key_depth is None else key_depth
        self.value_depth = ratio_value if value_depth is None else value_depth
        self.attention_downsample = attention_downsample
        self.position = position
        self.table_resize = table_resize
        self.implementation = implementation
        self.dtype = dtype
        check_settings(self, kernel_size, spatial_shape)
        # nnx.Conv takes no integers of NumPy.
        kernel_size, strides = int(kernel_size), int(strides)
        self.strides, self.attention_downsample = strides, int(attention_downsample)

        options = dict(use_bias=use_bias, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        conv: Any = functools.partial(nnx.Conv, conv_general_dilated=convolution, **options)
        pointwise = functools.partial(conv, kernel_size=(1, 1), kernel_init=attention_init)
        convolves, attends = self.value_depth < out_features, self.value_depth > 0
        padding = ((kernel_size - 1) // 2,) * 2
        shape: dict[str, Any] = dict(kernel_size=(kernel_size,) * 2, strides=strides, padding=(padding, padding))
        qkv_in = in_features + (3 if position == "coordconv" else 0)
        qkv_out = 2 * self.key_depth + self.value_depth
        own: dict[str, Any] = dict(strides=strides, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        if convolution_layer is None:
            layer = functools.partial(conv, kernel_init=kernel_init, **shape)
        else:
            layer = functools.partial(convolution_layer, kernel_size=kernel_size, **own)
        self.conv: Any = layer(in_features, out_features - self.value_depth) if convolves else None
        self.qkv = pointwise(qkv_in, qkv_out) if attends else None
        self.out = pointwise(self.value_depth, self.value_depth) if attends else None

        def table(axis: int) -> nnx.Param[Array] | None:
            if not attends or position != "relative" or spatial_shape is None:
                return None
            depth = self.key_depth // num_heads
            init = table_init or normal(depth**-0.5)
            return nnx.Param(init(rngs.params(), (2 * spatial_shape[axis] - 1, depth), param_dtype))

        self.rel_height = table(0)
        self.rel_width = table(1)

    @property
    def takes_train(self) -> bool:
        """Return whether a call needs `train`, because the convolution takes it."""
        return getattr(self.conv, "takes_train", False)

    def __call__(
        self, x: Float[Array, "b h w in"], *, train: bool | None = None, norm: tuple[Array, Array] | None = None
    ) -> Float[Array, "b hs ws out"]:
        """Return concat[Conv(X), MHA(X)], [b, h, w, in] to [b, ceil(h/strides), ceil(w/strides), out].

        `train` is passed to a `convolution_layer` that takes it, and changes nothing else. With `norm`, a factor and a
        summand for each channel, the layer's input is relu(x * factor + summand).

        Raises:
            ValueError: another shape of `x`, or a `norm` although `attends_to_input` is false.
        """
        self._check_input(x)
        if norm is not None and not self.attends_to_input:
            raise ValueError("norm needs attention to the layer's input as it is: not pooled, no position in it")
        if self.qkv is None:
            return convolve(self.conv, x, train=train)
        if self.strides == 1:  # otherwise attention reads a pooled map
            x = as_attention_reads(x, self.implementation)
        height, width = (math.ceil(length / self.strides) for length in x.shape[1:3])
        attended = functools.partial(self.attend, self.attention_input(x), size=(height, width), norm=norm)
        if self.conv is None:
            return attended()
        x = x if norm is None else normalized(x, *norm)
        convolved = functools.partial(convolve, self.conv, x, train=train)
        return concatenated(convolved, attended, room=self.value_depth if leaves_room(self.conv) else 0)

    @property
    def attends(self) -> bool:
        """Return whether the layer has attention, which `attention_weights` needs."""
        return self.qkv is not None

    @property
    def attends_to_input(self) -> bool:
        """Return whether attention sees the layer's input as it is: not pooled, without a position signal."""
        plain = self.position in ("relative", "none") and self.strides == self.attention_downsample == 1
        return self.attends and plain

    def attended_shape(self, height: int, width: int) -> tuple[int, int]:
        """Return the size of the map on which attention runs, for an input of height × width."""
        h, w = (math.ceil(math.ceil(n / self.strides) / self.attention_downsample) for n in (height, width))
        return h, w

    def attention_input(self, x: Float[Array, "b h w in"]) -> Float[Array, "b ha wa inp"]:
        """Return the input of the query, key and value projection: `x` pooled, with "sine" or "coordconv" position."""
        x = x.astype(self.dtype)
        for stride in (self.strides, self.attention_downsample):
            if stride > 1:
                x = average_pool(x, stride)
        return with_position(x, self.position)

    def attend(
        self,
        x: Float[Array, "b ha wa inp"],
        *,
        size: tuple[int, int] | None = None,
        norm: tuple[Array, Array] | None = None,
        added_to: Float[Array, "b ho wo all"] | None = None,
    ) -> Float[Array, "b ho wo _"]:
        """Return MHA(X) over a map made by `attention_input`: `qkv`, relative attention by head, `out`.

        The result is upsampled to `size`, by default that of `x`, and added to the last channels of `added_to` if that
        is given. With `norm`, a factor and a summand for each channel, the map is relu(x * factor + summand).
        """
        return multi_head_attention(
            x,
            _projection(self.qkv),
            _projection(self.out),
            *self._tables(*x.shape[1:3]),  # S_H and S_W are computed from these
            num_heads=self.num_heads,
            implementation=self.implementation,
            norm=norm,
            upsampled=size,
            added_to=added_to,
        )

    def attention_weights(
        self, x: Float[Array, "b h w in"], queries: Int[np.ndarray, "q 2"] | Sequence[tuple[int, int]] | None = None
    ) -> Float[Array, "b n *queries ha wa"]:
        """Return the attention maps for an input of the layer, at the attended size.

        They are [b, n, query_h, query_w, key_h, key_w]; with `queries`, (row, column) pairs on the attended map, they
        are [b, n, q, key_h, key_w].

        Raises:
            ValueError: another shape of `x`, a layer without attention, or queries outside the map.
        """
        self._check_input(x)
        if self.qkv is None:
            raise ValueError("this AAConv2D has value depth 0 and so no attention")
        x = self.attention_input(x)
        query, key, _ = heads_of(self.qkv(x), self.num_heads, self.value_depth)
        queries = None if queries is None else np.asarray(queries, np.int64).reshape(-1, 2)
        return relative_attention_weights_2d(query, key, *self._tables(*x.shape[1:3]), queries=queries)

    def _tables(self, height: int, width: int) -> tuple[Array | None, Array | None]:
        if self.rel_height is None or self.rel_width is None:
            return None, None
        return (
            resize_relative_table(self.rel_height[...], height, method=self.table_resize),
            resize_relative_table(self.rel_width[...], width, method=self.table_resize),
        )

    def _check_input(self, x: Array) -> None:
        if x.ndim != 4 or x.shape[-1] != self.in_features or 0 in x.shape:
            raise ValueError(f"x must have shape [b, h, w, in_features={self.in_features}], got {x.shape}")


def _projection(conv: Any) -> Projection:
    return Projection(conv.kernel[...], None if conv.bias is None else conv.bias[...], conv)
