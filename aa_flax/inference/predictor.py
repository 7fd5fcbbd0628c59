"""A trained network together with all that a photograph goes through before and after it."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Float32, UInt8
from PIL import Image

import aa_flax
from aa_flax import weights
from aa_flax.config.fields import built
from aa_flax.config.values import ConfigError
from aa_flax.data.images import as_pixels
from aa_flax.data.photo import as_photo, read_photo
from aa_flax.data.preprocessing import Preprocessing
from aa_flax.drawing.attention_maps import attention_maps
from aa_flax.inference.about import About, Given
from aa_flax.inference.export import Wanted, export
from aa_flax.literal import quoted
from aa_flax.models.registry import BuiltFrom
from aa_flax.tasks import Task, found, make_task, places, recorded_display, result_of
from aa_flax.training.trained import make_predict
from aa_flax.typed import height_and_width


class Seen(NamedTuple):
    """What the network sees of a photograph.

    Attributes:
        pixels: of the canvas, 0 to 255.
        placement: how the photograph lies on it, see `aa_flax.data.placement`.
    """

    pixels: UInt8[np.ndarray, "h w c"]
    placement: Float32[np.ndarray, "8"]


class Predictor:
    """A trained network that takes photographs and says what it finds, in their own pixels and with names.

    `aa_flax.load(...)` makes one. Photographs are seen as the held-out images of training were, by the functions that
    `aa_flax.predict` calls, one at a time, so that what is said of one does not depend on those beside it.

    Attributes:
        model: the network.
        about: its config, its preprocessing and the result of its run.
        task: what it was trained for.
        image_size: (height, width) of its input.
        display: the options of what is shown, such as the least score; those of the run, where its result says some.
    """

    def __init__(
        self,
        model: nnx.Module,
        about: About,
        *,
        image_size: int | tuple[int, int] | None = None,
        step: int | None = None,
    ) -> None:
        """Take a trained network.

        Args:
            model: the network.
            about: what is known of it.
            image_size: another (height, width), or one number for both, than it was trained at.
            step: of training, that the weights are of.

        Raises:
            ConfigError: the config does not fit the network or the task, or the network is one of signals.
            ValueError: images of that size are nothing that the network can take.
        """
        if about.preprocessing.of_signals:
            raise ConfigError("a predictor is of photographs, and this network was trained on signals")
        self.model, self.about, self.step = model, about, step
        self.task: Task = make_task(about.config, about.preprocessing)
        size = (
            about.preprocessing.height_and_width if image_size is None else height_and_width("image_size", image_size)
        )
        self.image_size = size
        self.display = self.task.display(**recorded_display(self.task, lambda: about.result))
        self._predict = make_predict(model, self.task, about.preprocessing)
        if size != about.preprocessing.image_size:
            self._require_size()

    @classmethod
    def of(cls, model: nnx.Module, *, image_size: int | tuple[int, int] | None = None, **said: Any) -> "Predictor":
        """Return the predictor of a network of `create_model` that has got its weights otherwise.

        Args:
            model: the network.
            image_size: another (height, width) than it was built for.
            said: how it sees photographs, see `aa_flax.inference.about.Given`.

        Raises:
            WeightsError: something is not said; the message says what, and how to give it.
        """
        origin = getattr(model, "built_from", None)
        if not isinstance(origin, BuiltFrom):
            raise TypeError(f"a network of create_model is needed, got {type(model).__name__}")
        fields = dict(vars(origin), model=origin.name, options=dict(origin.options))
        return cls(model, Given(**said).about(f"this {type(model).__name__}", fields), image_size=image_size)

    def at(self, image_size: int | tuple[int, int]) -> "Predictor":
        """Return the predictor of the same network at another (height, width) of its input.

        Raises:
            ValueError: images of that size are nothing that the network can take.
        """
        return Predictor(self.model, self.about, image_size=image_size, step=self.step)

    @property
    def preprocessing(self) -> Preprocessing:
        """What the network expects of a photograph."""
        return self.about.preprocessing

    @property
    def names(self) -> tuple[str, ...]:
        """The names of what it tells apart."""
        return self.preprocessing.names

    def __call__(self, photos: Any, **display: Any) -> Any:
        """Return what the network says about a photograph, or a list of that for a list of photographs.

        Args:
            photos: the name of an image file; pixels as uint8 [h, w] or [h, w, c]; an image of Pillow's; or a list or
                tuple of these.
            display: options of what is shown, the flags of `aa_flax.predict`, such as `threshold=0.5` of a detector.

        Returns:
            A `Classification`, `Detections` or `Segmentation` of `aa_flax.tasks.results`, or what another task gives.

        Raises:
            PhotoError: a photograph cannot be used.
            TypeError: it is of another type, or there is no such option.
            ValueError: an option has a value that it does not take.
        """
        shown = self._display(display)
        if isinstance(photos, list | tuple):
            return [self._result(photo, shown) for photo in photos]
        return self._result(photos, shown)

    @property
    def origin(self) -> dict[str, Any]:
        """What a card records of where the weights come from."""
        known = {"run": self.about.config.label, "step": self.step}
        said = {name: value for name, value in known.items() if value not in ("", None)}
        return {**said, "aa_flax": aa_flax.__version__, "names": list(self.names)}

    def save(self, file: str | Path, **origin: Any) -> None:
        """Write the network, with all that `aa_flax.load(file)` needs, to a .safetensors file and its card beside it.

        Args:
            file: whose name ends in .safetensors.
            origin: what the card records besides of where the weights come from.

        Raises:
            WeightsError: as `aa_flax.weights.save`.
        """
        weights.save(self.model, file, origin={**self.origin, **origin}, trained=self.about.as_json())

    def export(
        self, file: str | Path, *, photos: Any = (), say: Callable[[str], None] = lambda line: None, **wanted: Any
    ) -> dict[str, Any]:
        """Write the network as a program that runs without this library, compared with it, and return its card.

            predictor.export("mine.stablehlo", platforms=["cpu", "tpu"])
            run = jax.export.deserialize(bytearray(Path("mine.stablehlo").read_bytes())).call
            run(images)  # uint8 [b, h, w, c]: outputs by name, as mine.stablehlo.json says

        Args:
            file: StableHLO; ONNX if its name ends in .onnx.
            photos: photographs to compare on; made-up ones if not given.
            say: is called with each line of what was compared.
            wanted: `format`, `platforms`, `batch`, `outputs`, `preprocessing`, `kernels` and `dtype`, see
                `aa_flax.inference.export.Wanted`.

        Raises:
            ExportError: the network cannot be exported so, its program would give something else, or the file cannot
                be written.
            PhotoError, TypeError: as a call.
        """
        given = [as_photo(photo, self.preprocessing.channels) for photo in _listed(photos)]

        def examples(size: tuple[int, int]) -> Any:
            seen = [see(self.preprocessing, size, photo) for photo in given]
            return [np.stack(arrays) for arrays in zip(*seen, strict=True)] if seen else None

        size = self.image_size if self.image_size != self.preprocessing.image_size else None
        return export(self.model, self.about, size, file, Wanted(**wanted), examples, say)

    def see(self, picture: Image.Image) -> Seen:
        """Return what the network sees of a photograph, as `aa_flax.data.photo.as_photo` gives it."""
        return see(self.preprocessing, self.image_size, picture)

    def row(self, seen: Seen) -> Any:
        """Return what the task keeps of the network's outputs for one photograph, in this process's memory."""
        rows = jax.device_get(self._predict(seen.pixels[None], seen.placement[None]))
        return jax.tree.map(lambda array: array[0], rows)

    def found(self, row: Any, seen: Seen) -> Any:
        """Return the prediction for a photograph, in its own pixels, from its `row`."""
        return found(self.task, row, seen.placement)

    def preprocess(self, photos: Any) -> Float[Array, "b h w c"]:
        """Return the network's input for a photograph or a list of them: `predictor.model(...)` takes it.

        Raises:
            PhotoError, TypeError: as a call.
        """
        seen = [self.see(as_photo(photo, self.preprocessing.channels)) for photo in _listed(photos)]
        if not seen:
            raise ValueError("an empty list of photographs has no input")
        placement = jnp.asarray(np.stack([each.placement for each in seen])) if places(self.task) else None
        return self.preprocessing.normalize(jnp.asarray(np.stack([each.pixels for each in seen])), placement)

    def features(self, photos: Any) -> dict[str, Float[Array, "b h w c"]]:
        """Return the maps of the network by name, "stage1" ... or those of its pyramid, as `model.features` does.

        Raises:
            PhotoError, TypeError: as a call.
        """
        return self._features(self.preprocess(photos))

    def attention_maps(
        self,
        photos: Any,
        *,
        layers: Sequence[str] | str | None = None,
        queries: Sequence[tuple[int, int]] | None = None,
    ) -> dict[str, Float[Array, "b n ..."]]:
        """Return what each layer of the network attends to, by its path; see `aa_flax.analysis.attention_maps`.

        Args:
            photos: as of a call.
            layers: paths of layers, or patterns of them; None for all that attend.
            queries: (row, column) pixels of the network's input, whose attention is asked for; None for all places.

        Raises:
            PhotoError, TypeError: as a call.
            ValueError: there is no such layer, or a query is no pixel of the input.
        """
        return attention_maps(self.model, self.preprocess(photos), layers=layers, queries=queries)

    def _require_size(self) -> None:
        """Raise ValueError, before anything is computed, if the network cannot take images of its size."""
        blank = self.see(Image.new("L" if self.preprocessing.channels == 1 else "RGB", self.image_size[::-1]))
        jax.eval_shape(self._predict, blank.pixels[None], blank.placement[None])

    def __repr__(self) -> str:
        height, width = self.image_size
        what = f"{self.about.config.task.name} by {self.about.config.model.name}, {height}x{width}"
        return f"<Predictor: {what}, {len(self.names)} names: {quoted(self.names)}>"

    def _result(self, photo: Any, display: Any) -> Any:
        channels = self.preprocessing.channels
        picture = as_photo(photo, channels)
        seen = self.see(picture)
        return result_of(self.task, self.found(self.row(seen), seen), display, _pixels(photo, picture, channels))

    def _display(self, given: dict[str, Any]) -> Any:
        def unknown(name: str) -> ConfigError:
            known = ", ".join(vars(self.display)) or "none"
            raise TypeError(f"there is no option {name!r}; options of {self.about.config.task.name}: {known}")

        try:
            return built(type(self.display), {**vars(self.display), **given}, "", unknown)
        except ConfigError as error:
            raise ValueError(str(error).removeprefix("config field ")) from None

    @functools.cached_property
    def _features(self) -> Callable[[Any], Any]:
        graph, state = nnx.split(self.model)

        @jax.jit
        def features(state: Any, images: Any) -> Any:
            merged: Any = nnx.merge(graph, state, copy=True)
            return merged.features(images, train=False)

        return functools.partial(features, state)


def _listed(photos: Any) -> Any:
    """Return photographs as a list or tuple, which one photograph is none of."""
    return photos if isinstance(photos, list | tuple) else [photos]


def see(preprocessing: Preprocessing, size: tuple[int, int], picture: Image.Image) -> Seen:
    """Return what a network with a preprocessing sees of a photograph, at `size` (height, width)."""
    pixels, placement = preprocessing.view(size).placed(picture)
    return Seen(pixels, placement.as_array())


def _pixels(photo: Any, picture: Image.Image, channels: int) -> Callable[[], UInt8[np.ndarray, "h w c"]]:
    """Return the function that gives a photograph's pixels; those of a file are read again, so that none are kept."""
    if isinstance(photo, str | Path):
        return lambda: as_pixels(read_photo(photo, channels))
    return lambda: as_pixels(picture)
