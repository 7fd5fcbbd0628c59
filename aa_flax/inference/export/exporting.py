"""Export of a trained network to a file, which is loaded again and compared with the network before it is there."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from flax import nnx

from aa_flax.inference.about import About
from aa_flax.inference.export import onnx_format, stablehlo
from aa_flax.inference.export.card import card_of, require_ours, written
from aa_flax.inference.export.comparison import Arrays, comparison, on_platforms
from aa_flax.inference.export.errors import ExportError
from aa_flax.inference.export.served import Served
from aa_flax.tasks import make_task

Format = Literal["stablehlo", "onnx"]
Dtype = Literal["float32", "bfloat16"]
BATCHES = (1, 5)
"""Sizes of the batches that a program with a free batch is compared on."""


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What an export is to be.

    Attributes:
        format: of the file; "" for ONNX where its name ends in .onnx, else StableHLO.
        platforms: that a StableHLO program is for, of `aa_flax.inference.export.stablehlo.PLATFORMS`; () is all.
        batch: the number of images; None leaves it open.
        outputs: which of the forms of its task the network gives; "" is the usual one.
        preprocessing: whether the program takes pixels and normalises them.
        kernels: whether attention may be a kernel.
        dtype: of the computation; None is the network's own, or float32 in ONNX.
    """

    format: Format | Literal[""] = ""
    platforms: Sequence[str] = ()
    batch: int | None = None
    outputs: str = ""
    preprocessing: bool = True
    kernels: bool = False
    dtype: Dtype | None = None

    def for_file(self, file: Path) -> "Wanted":
        """Return what is wanted of a file, nothing left to choose.

        Raises:
            ExportError: something is unknown, or does not go together.
        """
        if not file.name:
            raise ExportError(f"expected the name of a file, got {str(file)!r}")
        kind = self.format or ("onnx" if file.suffix == ".onnx" else "stablehlo")
        for name, given, known in (("format", kind, get_args(Format)), ("dtype", self.dtype, (None, *get_args(Dtype)))):
            if given not in known:
                raise ExportError(f"{name} must be one of {', '.join(filter(None, known))}, got {given!r}")
        if isinstance(self.platforms, str):
            raise ExportError(f"platforms must be a list of names, such as [{self.platforms!r}], got a string")
        if unknown := [each for each in self.platforms if each not in stablehlo.PLATFORMS]:
            raise ExportError(f"platforms must be some of {', '.join(stablehlo.PLATFORMS)}, got {unknown[0]!r}")
        whole = isinstance(self.batch, int) and not isinstance(self.batch, bool)
        if self.batch is not None and not (whole and self.batch >= 1):
            raise ExportError(f"batch must be a number of images, at least 1, got {self.batch!r}")
        if kind == "onnx" and (self.platforms or self.kernels):
            raise ExportError("platforms and kernels are for stablehlo; an ONNX model is for every runtime")
        if kind != "onnx" and file.suffix == ".onnx":
            raise ExportError(f"{file}: the name of an ONNX model, and format is {kind!r}")
        platforms = tuple(dict.fromkeys(self.platforms)) or stablehlo.PLATFORMS
        if self.kernels and (platforms != ("tpu",) or self.batch is None):
            raise ExportError(
                "kernels need platforms=tpu, as JAX keeps no others loadable, and a batch, as they take no free one"
            )
        dtype = self.dtype or ("float32" if kind == "onnx" else None)
        return dataclasses.replace(self, format=kind, platforms=() if kind == "onnx" else platforms, dtype=dtype)


def export(
    model: nnx.Module,
    about: About,
    size: tuple[int, ...] | None,
    file: str | Path,
    wanted: Wanted = Wanted(),
    examples: Callable[[Any], Sequence[np.ndarray] | None] = lambda size: None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Write a trained network to a file that other programs run, and its card beside it; return the card.

    The program is made for the platforms that it is to run on, not for this one. It is read again from its bytes and
    run beside the network, and written only if they agree.

    Args:
        model: the network.
        about: what is known of it.
        size: (height, width) of its input; None is that of the run, or of its task's windows.
        file: the file.
        wanted: what it is to be.
        examples: returns, for a size, pixels uint8 [b, h, w, c] of photographs to compare on, and their placements [b,
            8]; None for made-up ones.
        say: is called with a line for each thing that was found out.

    Raises:
        ExportError: it cannot be exported so; it would not give what the network gives; or it cannot be written.
    """
    file = Path(file).expanduser()
    wanted = wanted.for_file(file)
    if wanted.format == "onnx":
        onnx_format.require_packages()
    require_ours(file)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExportError(f"{file}: its folder cannot be made ({error.strerror})") from None
    model, about = in_dtype(model, about, wanted.dtype)
    task: Any = make_task(about.config, about.preprocessing)
    canvas: Any = size or getattr(task, "served_size", about.preprocessing.image_size)
    options: dict[str, bool] = dict(normalizes=wanted.preprocessing, loops=wanted.format != "onnx")
    served = Served(model, task, about.preprocessing, tuple(canvas), wanted.outputs, **options)
    packages = onnx_format.PACKAGES if wanted.format == "onnx" else ("jax", "jaxlib", "flax")
    card = card_of(served, about, wanted.batch, packages)
    card |= {"kind": wanted.format, "platforms": list(wanted.platforms)}
    given = _inputs(served, wanted.batch, examples(canvas))
    if wanted.format == "onnx":
        content = onnx_format.as_onnx(served, wanted.batch, card)
        say(f"ONNX, {len(content) / 1e6:.1f} MB")
        compared = [comparison(served, onnx_format.from_onnx(content), given, "onnxruntime")]
    else:
        content = stablehlo.as_stablehlo(served, wanted.platforms, wanted.batch, wanted.kernels)
        say(f"StableHLO for {', '.join(wanted.platforms)}, {len(content) / 1e6:.1f} MB")
        compared = on_platforms(served, content, given, wanted.platforms, wanted.kernels)
    for each in compared:
        say(str(each))
    if wrong := next((each for each in compared if not each.agrees), None):
        raise ExportError(f"{file}: not written: {wrong}")
    return written(file, content, {**card, "compared": [each.as_json() for each in compared]})


def in_dtype(model: nnx.Module, about: About, dtype: Dtype | None) -> tuple[nnx.Module, About]:
    """Return the network that computes in a dtype, None is its own, with the same parameters; what is known of it."""
    if dtype is None or dtype == about.preprocessing.dtype:
        return model, about
    config = dataclasses.replace(about.config, model=dataclasses.replace(about.config.model, dtype=dtype))
    preprocessing = dataclasses.replace(about.preprocessing, dtype=dtype)
    other = nnx.eval_shape(lambda: make_task(config, preprocessing).build(nnx.Rngs(0)))
    nnx.update(other, nnx.state(model))
    return other, About(config, preprocessing, about.result)


def _inputs(served: Served, batch: int | None, examples: Sequence[np.ndarray] | None) -> list[Arrays]:
    """Return the batches that a program is compared on: of several sizes where the batch is free."""
    sizes = BATCHES if batch is None else (batch,)
    if examples is None:
        return [served.made_up(number) for number in sizes]
    pixels, placements = examples
    number = len(pixels)
    if batch is None:
        sizes = tuple(dict.fromkeys((*sizes, number)))
    rows = (np.arange(first, first + size) % number for size in sizes for first in range(0, number, size))
    return [served.arguments(pixels[row], placements[row, 4:6]) for row in rows]
