"""Counts of the parameters and floating-point operations of a network, in total and by module."""

import html
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from aa_flax.drawing.trace import module_paths, natural_order, watched
from aa_flax.layers import AAConv
from aa_flax.models import create_model
from aa_flax.ops.platform import traced_for
from aa_flax.typed import sides


@dataclass(frozen=True)
class ModuleSummary:
    """The counts of one module, with all modules inside it. `Summary` defines them."""

    kind: str
    params: int
    flops: int
    paper_flops: int


@dataclass(frozen=True)
class Summary:
    """The counts of a network, in total and by module.

    `flops` is 2 × the multiply-adds that the network needs for one forward pass of the batch: convolutions, matrix
    products and attention (projections, queries with keys and tables, weights with values), whatever the implementation
    spends. Pooling, interpolation, normalisation and activations are not counted.

    `paper_flops` counts attention as the paper seems to do: (h*w)**2 * key_depth operations per layer, and the
    projections. For networks without attention the two counts agree. The paper does not state its rule, which was
    inferred from its tables.

    Of a detector of two stages the second is counted for as many boxes as it has proposals, and masks for as many as it
    has detections; RoIAlign is interpolation.

    Attributes:
        params, flops, paper_flops: the totals.
        frozen: how many of the parameters lie in the network's `frozen_parts`, which do not learn.
        by_module: the counts of each module by its dotted path, in the order in which modules are called.
        image_shape: (h, w, c) of the images that were counted for, or the sides and channels of signals or volumes.
        batch: the number of images in the pass.
    """

    params: int
    flops: int
    paper_flops: int
    by_module: dict[str, ModuleSummary]
    image_shape: tuple[int, ...]
    batch: int
    frozen: int = 0

    def __str__(self) -> str:
        return self.table()

    def table(self, depth: int = 2) -> str:
        """Return a table with a line for each module down to `depth` parts of its path, and a line of totals.

        Four or more modules of one type inside the same one that need no operations, as the batch norms of each level
        in the heads of a RetinaNet, have one line for all. A network with frozen parameters has a line of these before
        the last.
        """
        rows = self._rows(depth)
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        return "\n".join(
            f"{name:<{widths[0]}}  {kind:<{widths[1]}}  {params:>{widths[2]}}  {flops:>{widths[3]}}".rstrip()
            for name, kind, params, flops in rows
        )

    def _repr_html_(self, depth: int = 2) -> str:
        """Return the same table as notebooks show it."""
        heading, *rows = self._rows(depth)

        def line(row: tuple[str, ...], cell: str) -> str:
            sides = ("left", "left", "right", "right")
            cells = zip(map(html.escape, row), sides, strict=True)
            return "".join(f'<{cell} style="text-align: {side}">{text}</{cell}>' for text, side in cells)

        body = "".join(f"<tr>{line(row, 'td')}</tr>" for row in rows)
        return f"<table><thead><tr>{line(heading, 'th')}</tr></thead><tbody>{body}</tbody></table>"

    def _rows(self, depth: int) -> list[tuple[str, str, str, str]]:
        """Return the rows of the table, the heading first."""
        rows = [("module", "type", "params", "MFLOPs")]
        shown = {path: module for path, module in self.by_module.items() if path.count(".") < depth}
        for paths in _alike(shown):
            kind = shown[paths[0]].kind + (f" × {len(paths)}" if len(paths) > 1 else "")
            params, flops = (sum(getattr(shown[path], name) for path in paths) for name in ("params", "flops"))
            rows.append((_common(paths), kind, f"{params:,}", f"{flops / 1e6:,.1f}"))
        if self.frozen:
            rows.append(("of which frozen", "", f"{self.frozen:,}", ""))
        return [*rows, ("total", "", f"{self.params:,}", f"{self.flops / 1e6:,.1f}")]


def summarize(
    model_or_name: nnx.Module | str, image_size: int | tuple[int, ...] | None = None, batch: int = 1
) -> Summary:
    """Count the parameters and FLOPs of a network by tracing it; nothing is computed.

    Args:
        model_or_name: a module with `image_size` and `in_channels`, or a name for `create_model`.
        image_size: (height, width) or one number for both; None for the model's own.
        batch: the number of images in the pass; FLOPs are proportional to it.

    Returns:
        The totals, and the counts of each module in the order in which modules are called.

    Raises:
        TypeError: the module is no network of images.
        ValueError: an image size that is none, or one that the network refuses.
        NotImplementedError: the network has a conditional or a loop of unknown length.
    """
    if isinstance(model_or_name, str):
        name = model_or_name
        model: Any = nnx.eval_shape(lambda: create_model(name, image_size=image_size, rngs=nnx.Rngs(0)))
    else:
        model = model_or_name
        if not hasattr(model, "image_size") or not hasattr(model, "in_channels"):
            raise TypeError(
                f"model_or_name must be a network that has image_size and in_channels, or a name; got a "
                f"{type(model).__name__}"
            )
    size = model.image_size
    if image_size is not None:
        size = sides("image_size", image_size, len(size))
    image_shape = (*size, model.in_channels)
    counter = _Counter(set(module_paths(model).values()))
    graph, state = nnx.split(model)

    def forward(state: Any, images: Any) -> Any:
        merged: Any = nnx.merge(graph, state, copy=True)
        merged.eval()
        for _, module in nnx.iter_modules(merged):
            if isinstance(module, AAConv):
                module.implementation = "auto"  # some cannot be traced for a CPU; the counts are the same for all
        with watched(merged, note):
            return getattr(merged, "every_head", merged)(images)

    called: dict[str, None] = {}

    def note(path: str, module: nnx.Module, arguments: tuple) -> None:
        called.update(dict.fromkeys(_prefixes(path)))  # a backbone is not called itself, its stages are

    images = jax.ShapeDtypeStruct((batch, *image_shape), jnp.float32)
    with traced_for("cpu"):  # on other platforms layers may pad with zeros, or have products inside kernels
        counter.visit(jax.make_jaxpr(forward)(state, images).jaxpr, "", 1)
    params: dict[str, int] = {}
    for path, leaf in nnx.to_flat_state(nnx.state(model, nnx.Param)):
        for prefix in _prefixes(".".join(map(str, path))):
            params[prefix] = params.get(prefix, 0) + math.prod(leaf.shape)
    kinds = {".".join(map(str, path)): type(module).__name__ for path, module in nnx.iter_modules(model)}
    by_module = {
        path: ModuleSummary(
            kinds[path], params.get(path, 0), counter.flops.get(path, 0), counter.paper_flops.get(path, 0)
        )
        for path in [*called, *sorted(kinds.keys() - called, key=natural_order)]
        if path
    }
    return Summary(
        params=params.get("", 0),
        flops=counter.flops.get("", 0),
        paper_flops=counter.paper_flops.get("", 0),
        by_module=by_module,
        image_shape=image_shape,
        batch=batch,
        frozen=sum(params.get(part, 0) for part in getattr(model, "frozen_parts", ())),
    )


_UNCOUNTED = ("adaptive_average_pool", "max_pool", "resize_linear")
"""Names of the traced functions whose products are pooling and interpolation, and no layer's."""


class _Counter:
    """A visitor of a jaxpr that adds each operation to the innermost module in whose scope it is, and its parents."""

    def __init__(self, paths: set[str]) -> None:
        self._paths = paths
        self.flops: dict[str, int] = {}
        self.paper_flops: dict[str, int] = {}

    def visit(self, jaxpr: Any, module: str, times: int) -> None:
        """Add `times` times the operations of a jaxpr; those in no module's scope are added to `module`."""
        for equation in jaxpr.eqns:
            name = equation.primitive.name
            scopes = [s for s in str(equation.source_info.name_stack).split("/") if s in self._paths]
            here = scopes[-1] if scopes else module
            if name == "conv_general_dilated":
                out, kernel = equation.outvars[0].aval, equation.invars[1].aval
                outputs = kernel.shape[equation.params["dimension_numbers"].rhs_spec[0]]
                self._add(here, times * 2 * out.size * (kernel.size // outputs))
            elif name == "dot_general":
                (contracted, _), _ = equation.params["dimension_numbers"]
                inner = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
                self._add(here, times * 2 * equation.outvars[0].aval.size * inner)
            elif equation.params.get("name") == "sum_of_shifted":  # a depthwise convolution
                kernel = equation.invars[1].aval
                self._add(here, times * 2 * equation.outvars[0].aval.size * math.prod(kernel.shape[:-1]))
            elif equation.params.get("name") == "convolution_of_resized":  # as it is defined
                kernels = [v.aval for v in equation.invars[len(equation.invars) // 2 :]]
                taps = sum(math.prod(kernel.shape[:3]) for kernel in kernels)
                self._add(here, times * 2 * equation.outvars[0].aval.size * taps)
            elif equation.params.get("name") == "attend":
                query, _, value, *others = [v.aval for v in equation.invars]
                *image, n, dk = query.shape
                self._attention(here, times, image, n * dk, n * value.shape[-1], _offsets(others))
            elif equation.params.get("name") == "packed_attention":
                qkv, *tables = [v.aval for v in equation.invars]
                value_depth = equation.outvars[0].aval.shape[-1]
                key_depth = (qkv.shape[-1] - value_depth) // 2
                self._attention(here, times, qkv.shape[:3], key_depth, value_depth, _offsets(tables))
            elif equation.params.get("name") == "attention_branch":
                self._branch(here, times, [v.aval for v in equation.invars])
            elif equation.params.get("name") not in _UNCOUNTED:
                trips = equation.params["length"] if name == "scan" else 1
                for inner_jaxpr in _inner(equation, name):
                    self.visit(inner_jaxpr, here, times * trips)

    def _attention(
        self, module: str, times: int, image: Sequence[int], key_depth: int, value_depth: int, offsets: int
    ) -> None:
        """Add the operations of attention: each query with all keys and values, and with all rows of any tables.

        `image` is the batch with the sizes of the space, `key_depth` and `value_depth` are those of all heads together.
        A query uses l of the 2l-1 rows of a table; all `offsets` are counted, because the published definition of the
        layer multiplies the whole table.
        """
        b, *space = image
        places = math.prod(space)
        needed = times * 2 * b * places * (places * (key_depth + value_depth) + offsets * key_depth)
        self._add(module, needed, times * b * places**2 * key_depth)

    def _branch(self, module: str, times: int, arguments: list[Any]) -> None:
        """Add the operations of attention with its projections.

        Those of the projections are added to `qkv` and `out`, which compute them in a layer that does not fuse them.
        """
        x, *params = arguments
        qkv, out, *tables = [param for param in params if len(param.shape) == 2]
        value_depth = out.shape[0]
        key_depth = (qkv.shape[1] - value_depth) // 2
        self._attention(module, times, x.shape[:3], key_depth, value_depth, _offsets(tables))
        for name, kernel in (("qkv", qkv), ("out", out)):
            self._add(f"{module}.{name}".lstrip("."), times * 2 * math.prod(x.shape[:3]) * kernel.size)

    def _add(self, module: str, flops: int, paper_flops: int | None = None) -> None:
        for prefix in _prefixes(module):
            self.flops[prefix] = self.flops.get(prefix, 0) + flops
            self.paper_flops[prefix] = self.paper_flops.get(prefix, 0) + (flops if paper_flops is None else paper_flops)


def _offsets(arrays: Sequence[Any]) -> int:
    """Return how many rows all relative tables among arrays have together."""
    return sum(each.shape[0] for each in arrays if len(each.shape) == 2 and each.dtype != bool)


def _alike(modules: Mapping[str, ModuleSummary], least: int = 4) -> list[list[str]]:
    """Return the paths of modules in their order, those that share a line of a table together at the first of them."""
    groups: dict[tuple[str, str], list[str]] = {}
    for path, module in modules.items():
        key = (path.rpartition(".")[0], module.kind) if not module.flops else (path, "")
        groups.setdefault(key, []).append(path)
    together = {paths[0]: paths for paths in groups.values() if len(paths) >= least}
    later = {path for paths in together.values() for path in paths[1:]}
    return [together.get(path, [path]) for path in modules if path not in later]


def _common(paths: Sequence[str]) -> str:
    """Return a path, or the common beginning of several with a star for the rest."""
    same = itertools.takewhile(lambda letters: len({*letters}) == 1, zip(*paths, strict=False))
    return paths[0] if len(paths) == 1 else "".join(letters[0] for letters in same) + "*"


def _inner(equation: Any, name: str) -> Iterator[Any]:
    if name in ("cond", "while"):
        raise NotImplementedError(f"operations inside {name!r} cannot be counted: how often they run is not known")
    for value in equation.params.values():
        if isinstance(value, jax.extend.core.ClosedJaxpr):
            yield value.jaxpr
        elif isinstance(value, jax.extend.core.Jaxpr):
            yield value


def _prefixes(path: str) -> Iterator[str]:
    """Yield the path and all paths that contain it, the empty one included: a.b -> "", a, a.b."""
    parts = path.split(".") if path else []
    for i in range(len(parts) + 1):
        yield ".".join(parts[:i])
