"""The attention-augmented convolution (Bello et al., 2019, section 3)."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from aa_flax.layers.aa_settings import check_settings, dimensions_of
from aa_flax.layers.attention_depths import ValueRounding, attention_depths
from aa_flax.layers.convolve import convolve, leaves_room, valid_after
from aa_flax.layers.initializers import glorot_uniform, normal
from aa_flax.layers.position import Position, position_channels, with_position
from aa_flax.ops import average_pool, convolution, relative_attention_weights, resize_relative_table
from aa_flax.ops.axes import letters, table_names
from aa_flax.ops.concatenation import concatenated
from aa_flax.ops.multi_head_attention import Projection, as_attention_reads, heads_of, multi_head_attention
from aa_flax.ops.normalized import normalized
from aa_flax.ops.resampling import average_pool_valid
from aa_flax.ops.tables import TableResize


class AAConv(nnx.Module):
    """A convolution of which some output channels are global self-attention over a signal, a map or a volume.

        AAConv(X) = concat[Conv(X), MHA(X)]        out - dv channels of convolution, then dv of attention
        MHA(X)    = concat over heads of softmax((Q Kᵀ + S_H + S_W) / sqrt(dk per head)) V, then W_O

    The space has as many dimensions as `spatial_shape` is long, one to three, and a relative term S for each axis. Its
    locations lie on a grid: unordered points, such as a cloud of them in space, have no offsets that tables could hold.

    Sub-modules: `conv` k×...×k; `qkv` 1×...×1, output channels q, k, v in this order, each head-major; `out` 1×...×1;
    parameters `rel_length` of a signal, `rel_height` and `rel_width` of a map, `rel_depth` before them of a volume,
    each [2 * size - 1, dk per head] and shared by the heads. What a setting leaves out is None. There is no batch norm
    inside: the paper normalises after the concatenation, which is left to the network.

    Where the paper is silent: with strides the attention input is average-pooled by the stride (windows of 3, padding
    not counted), so that both branches have the same size; `attention_downsample` pools once more in the same way, and
    the attended map is upsampled linearly (half-pixel centres) to the convolution's size.

    Any sizes are accepted at call time: `spatial_shape` is only the size that the tables are made for. Smaller maps use
    a slice of the tables, which is exact; for larger ones see `table_resize`.

    Under a mesh with an axis "model" of more than one device, the heads are split over its devices.

    Args:
        in_features, out_features: channels of the input and of the output.
        kernel_size: odd, of the convolution, the same on all axes; padding (kernel_size - 1) // 2.
        strides: of the convolution, the same on all axes.
        num_heads: n; divides key and value depth.
        kappa, upsilon: key and value depth as ratios to out_features, through `attention_depths`.
        key_depth, value_depth: total depths, instead of the ratios and the minimum. With a value depth of 0 the layer
            is a plain convolution, with one of out_features it has no convolution.
        min_key_depth_per_head, value_rounding: see `attention_depths`.
        spatial_shape: (length,), (height, width) or (depth, height, width) of the space on which attention runs, each
            ceil(ceil(size / strides) / attention_downsample).
        attention_downsample: factor by which the attention's input is pooled once more.
        position: "relative", "none", "sine" (sinusoids, a part of the channels for each axis, added to the attention
            input; the paper does not say added or concatenated) or "coordconv" (coordinates and their distance from the
            centre, concatenated to the attention input only).
        table_resize: "linear", "clamp" or "error", see `aa_flax.ops.resize_relative_table`.
        table_init: of the tables, by default a normal distribution with standard deviation (dk per head)**-0.5. The
            authors' listing passes that number as the mean, with standard deviation 1, which looks like a mistake:
            `aa_flax.layers.initializers.normal(1.0, mean)` reproduces it.
        use_bias: whether conv, qkv and out have biases. The published parameter counts require False; the authors'
            listing has biases.
        implementation: of the attention, see `aa_flax.ops.relative_attention`.
        kernel_init, attention_init: of `conv`, and of `qkv` and `out`; Glorot-uniform as in the authors' framework.
        convolution_layer: builds `conv`, called as `convolution_layer(in_features, out - dv, kernel_size=...,
            strides=..., dtype=..., param_dtype=..., rngs=...)`, for example `aa_flax.layers.AWConv2D` in two
            dimensions; None is an `nnx.Conv` with `use_bias` and `kernel_init`.

    Raises:
        ValueError: settings that are impossible alone or together; at call time a channel count or rank that does not
            fit.
    """

    takes_valid = True
    dimensions = 0  # of the space; 0: as many as `spatial_shape` is long

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
        spatial_shape: tuple[int, ...] | None,
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
        if type(self).dimensions == 0:
            self.dimensions = dimensions_of(spatial_shape)
        check_settings(self, kernel_size, spatial_shape)
        # nnx.Conv takes no integers of NumPy.
        kernel_size, strides = int(kernel_size), int(strides)
        self.strides, self.attention_downsample = strides, int(attention_downsample)

        options = dict(use_bias=use_bias, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        conv: Any = functools.partial(nnx.Conv, conv_general_dilated=convolution, **options)
        axes = self.dimensions
        pointwise = functools.partial(conv, kernel_size=(1,) * axes, kernel_init=attention_init)
        convolves, attends = self.value_depth < out_features, self.value_depth > 0
        padding = ((kernel_size - 1) // 2,) * 2
        shape: dict[str, Any] = dict(kernel_size=(kernel_size,) * axes, strides=strides, padding=(padding,) * axes)
        qkv_in = in_features + position_channels(position, axes)
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

        for axis, name in enumerate(self.table_names):
            setattr(self, name, table(axis))

    @property
    def table_names(self) -> tuple[str, ...]:
        """Return the names of the relative tables in the order of the axes."""
        return table_names(self.dimensions)

    @property
    def has_tables(self) -> bool:
        """Return whether the layer has relative positions, and so a table for each axis."""
        return any(getattr(self, name) is not None for name in self.table_names)

    @property
    def takes_train(self) -> bool:
        """Return whether a call needs `train`, because the convolution takes it."""
        return getattr(self.conv, "takes_train", False)

    def __call__(
        self,
        x: Float[Array, "b *space in"],
        *,
        train: bool | None = None,
        norm: tuple[Array, Array] | None = None,
        valid: Bool[Array, "b *space"] | None = None,
    ) -> Float[Array, "b *out_space out"]:
        """Return concat[Conv(X), MHA(X)], [b, *space, in] to [b, *out_space, out], each side ceil(side/strides).

        `train` is passed to a `convolution_layer` that takes it, and changes nothing else. With `norm`, a factor and a
        summand for each channel, the layer's input is relu(x * factor + summand).

        With `valid`, the space ends where its locations are not: the others are zeros to the convolution,
        which pads with zeros, do not count in the pooling of the attention's input, and no query attends to them. A
        signal that is padded at its end so gives what it gives alone, followed by what padding gives; see
        `valid_after`. Position "coordconv", which measures the whole space, is the exception.

        Raises:
            ValueError: another shape of `x` or `valid`, a `norm` although `attends_to_input` is false, or `valid` with
                `attention_downsample` above 1, whose interpolation would depend on the padding.
        """
        self._check_input(x)
        if norm is not None and not self.attends_to_input:
            raise ValueError("norm needs attention to the layer's input as it is: not pooled, no position in it")
        if valid is not None:
            if self.attends and self.attention_downsample > 1:
                raise ValueError(f"valid needs attention_downsample=1, got {self.attention_downsample}")
            if valid.shape != x.shape[:-1]:
                raise ValueError(f"valid must have shape {x.shape[:-1]} like the input, got {valid.shape}")
            x, norm = (x if norm is None else normalized(x, *norm)), None
            x = jnp.where(valid[..., None], x, jnp.zeros((), x.dtype))
        if self.qkv is None:
            return convolve(self.conv, x, train=train)
        if self.strides == 1:  # otherwise attention reads a pooled map
            x = as_attention_reads(x, self.implementation)
        size = tuple(math.ceil(length / self.strides) for length in x.shape[1:-1])
        seen = valid if valid is None else valid_after(valid, self.strides)
        attended = functools.partial(self.attend, self.attention_input(x, valid), size=size, norm=norm, valid=seen)
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

    def attended_shape(self, *space: int) -> tuple[int, ...]:
        """Return the size of the space on which attention runs, for an input of these sides, such as height, width."""
        return tuple(math.ceil(math.ceil(side / self.strides) / self.attention_downsample) for side in space)

    def attention_input(
        self, x: Float[Array, "b *space in"], valid: Bool[Array, "b *space"] | None = None
    ) -> Float[Array, "b *attended inp"]:
        """Return the input of the query, key and value projection: `x` pooled, with "sine" or "coordconv" position."""
        x = x.astype(self.dtype)
        for stride in (self.strides, self.attention_downsample):
            if stride > 1:
                x = average_pool(x, stride) if valid is None else average_pool_valid(x, valid, stride)
        return with_position(x, self.position)

    def attend(
        self,
        x: Float[Array, "b *attended inp"],
        *,
        size: tuple[int, ...] | None = None,
        norm: tuple[Array, Array] | None = None,
        added_to: Float[Array, "b *out_space all"] | None = None,
        valid: Bool[Array, "b *attended"] | None = None,
    ) -> Float[Array, "b *out_space _"]:
        """Return MHA(X) over a map made by `attention_input`: `qkv`, relative attention by head, `out`.

        The result is upsampled to `size`, by default that of `x`, and added to the last channels of `added_to` if that
        is given. With `norm`, a factor and a summand for each channel, the map is relu(x * factor + summand).
        """
        return multi_head_attention(
            x,
            _projection(self.qkv),
            _projection(self.out),
            *self._tables(x.shape[1:-1]),  # S_H and S_W are computed from these
            num_heads=self.num_heads,
            implementation=self.implementation,
            norm=norm,
            upsampled=size,
            added_to=added_to,
            valid=valid,
        )

    def attention_weights(
        self,
        x: Float[Array, "b *space in"],
        queries: Int[np.ndarray, "q _axes"] | Sequence[tuple[int, ...]] | None = None,
        valid: Bool[Array, "b *space"] | None = None,
    ) -> Float[Array, "b n *queries_and_attended"]:
        """Return the attention maps for an input of the layer, at the attended size.

        They are [b, n, *queries, *keys], with the sides of the attended space twice; with `queries`, coordinates such
        as (row, column) on the attended space, they are [b, n, q, *keys].

        Raises:
            ValueError: another shape of `x`, a layer without attention, or queries outside the map.
        """
        self._check_input(x)
        if self.qkv is None:
            raise ValueError(f"this {type(self).__name__} has value depth 0 and so no attention")
        x = self.attention_input(x, valid)
        query, key, _ = heads_of(self.qkv(x), self.num_heads, self.value_depth)
        queries = None if queries is None else np.asarray(queries, np.int64).reshape(-1, self.dimensions)
        seen = valid if valid is None else valid_after(valid, self.strides)
        return relative_attention_weights(query, key, self._tables(x.shape[1:-1]), valid=seen, queries=queries)

    def _tables(self, space: tuple[int, ...]) -> tuple[Array | None, ...]:
        tables = (getattr(self, name) for name in self.table_names)
        return tuple(
            None if table is None else resize_relative_table(table[...], length, method=self.table_resize)
            for table, length in zip(tables, space, strict=True)
        )

    def _check_input(self, x: Array) -> None:
        if x.ndim != self.dimensions + 2 or x.shape[-1] != self.in_features or 0 in x.shape:
            axes = letters(self.dimensions)
            raise ValueError(f"x must have shape [b, {axes}, in_features={self.in_features}], got {x.shape}")


class AAConv2D(AAConv):
    """`AAConv` over a map, with `rel_height` [2h-1, dk per head] and `rel_width` [2w-1, dk per head].

    `spatial_shape`, (h, w), may be None if there are no tables.
    """

    dimensions = 2
    rel_height: nnx.Param[Array] | None
    rel_width: nnx.Param[Array] | None


def _projection(conv: Any) -> Projection:
    return Projection(conv.kernel[...], None if conv.bias is None else conv.bias[...], conv)
