"""A photograph in which one clicks a pixel and sees what every head of a network attends to from there."""

import base64
import functools
import io
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.figure import Figure
from PIL import Image

from aa_flax.data.photo import as_photo
from aa_flax.drawing.attention_maps import attending_paths, last_of_each_stage
from aa_flax.drawing.query_attention import attention_figure
from aa_flax.inference.loading import load
from aa_flax.inference.predictor import Predictor

_SIDE = 400
"""Screen pixels of the longer side of the photograph that is clicked."""
_DPI = 140  # of the figure: one photograph in a notebook, larger than in the rows of many
_NUMBERS = itertools.count(1)
"""Tells the style sheets of the photographs of one notebook apart."""
_STYLE = """<style>
.{name} {{ background: url(data:image/png;base64,{photo}) 0 0 / 100% 100% no-repeat; overflow: hidden }}
.{name} button {{ margin: 0; padding: 0; border: 0; min-width: 0; background: transparent; cursor: crosshair }}
.{name} button:hover {{ outline: 2px solid #39d0ff; outline-offset: -2px; box-shadow: none }}
.{name} button.aa-flax-query {{ outline: 3px solid #39d0ff; outline-offset: -2px }}
</style>"""


class AttentionExplorer:
    """What every head of a network attends to from a pixel of a photograph: by clicking, or by `figure(row, column)`.

    Shown in a notebook, it is the photograph to click in and the maps beside it, by ipywidgets; where these are not
    installed, the figure for the middle of the photograph. All maps are computed at once, for a grid of pixels, so that
    a click only draws.

    Attributes:
        network: the name of the network that looks.
        predictor: that network.
        grid: rows and columns of the pixels that can be asked for, each for the part of the photograph around it.
    """

    def __init__(
        self,
        networks: Predictor | str | Path | Mapping[str, Predictor | str | Path],
        photo: Any,
        *,
        layers: Sequence[str] | str | None = None,
        places: int = 20,
    ) -> None:
        """Take networks and a photograph; the first network looks at it.

        Args:
            networks: a predictor, or what `aa_flax.load` takes; or several of them by name, to choose from. One that is
                not loaded is loaded when it is chosen.
            photo: the name of an image file, pixels, or an image of Pillow's, as a predictor takes it.
            layers: dotted paths of layers, or patterns of them; None for the last attending layer of each stage.
            places: how many pixels along the longer side can be asked for.

        Raises:
            ValueError: there is no network, or the first has no layer in which pixels attend to pixels.
            Whatever `aa_flax.load` and a predictor raise.
        """
        if places < 1:
            raise ValueError(f"places must be at least 1, got {places}")
        self._networks = dict(networks) if isinstance(networks, Mapping) else {"network": networks}
        if not self._networks:
            raise ValueError("networks must be one network or several by name, got none")
        self._photo, self._layers, self._places = photo, layers, places
        self.choose(next(iter(self._networks)))

    def choose(self, network: str) -> None:
        """Let another of the networks look at the photograph.

        Raises:
            KeyError: there is none of that name.
            ValueError: it has no layer in which pixels attend to pixels.
            Whatever `aa_flax.load` and a predictor raise; the network that looked before then still does.
        """
        if network not in self._networks:
            raise KeyError(f"no network {network!r}; there are {', '.join(self._networks)}")
        given = self._networks[network]
        predictor = given if isinstance(given, Predictor) else load(given)
        attending, _ = attending_paths(predictor.model)
        if not attending:
            raise ValueError(
                f"{network}: no layer of this {predictor.about.config.model.name} has pixels that attend to pixels; "
                "networks named aa_* have"
            )
        layers = last_of_each_stage(attending) if self._layers is None else self._layers
        seen = predictor.see(as_photo(self._photo, predictor.preprocessing.channels))
        height, width = (int(side) for side in seen.placement[4:6])
        step = max(height, width) / self._places
        rows, columns = (max(1, min(side, round(side / step))) for side in (height, width))
        queries = [(row, column) for row in _middles(height, rows) for column in _middles(width, columns)]
        maps = predictor.attention_maps(self._photo, layers=layers, queries=queries)
        self._networks[network] = predictor
        self.network, self.predictor, self.grid = network, predictor, (rows, columns)
        self._canvas, self._size, self._queries = seen.pixels, (height, width), queries
        self._maps = {path: np.asarray(weights) for path, weights in maps.items() if path in attending}

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of what the network sees of the photograph, in pixels of its input."""
        return self._size

    @property
    def said(self) -> Any:
        """What the network says about the photograph."""
        return self.predictor(self._photo)

    def maps(self, row: int, column: int) -> dict[str, Float[np.ndarray, "n ha wa"]]:
        """Return the map of each head of each layer for the pixel of the grid that is nearest to one of the input.

        Raises:
            ValueError: the pixel lies outside the photograph.
        """
        number = self._nearest(row, column)
        return {path: weights[0, :, number] for path, weights in self._maps.items()}

    def figure(self, row: int | None = None, column: int | None = None, file: Path | None = None) -> Figure:
        """Draw the map of every head for the pixel of the grid that is nearest to one of the input, a layer a row.

        Args:
            row, column: of the pixel; None for the middle of the photograph.
            file: the PNG to write, if any.

        Raises:
            ValueError: the pixel lies outside the photograph.
        """
        height, width = self._size
        number = self._nearest(height // 2 if row is None else row, width // 2 if column is None else column)
        query = self._queries[number]
        maps = {path: weights[:, :, number : number + 1] for path, weights in self._maps.items()}
        heads = max(weights.shape[1] for weights in maps.values())
        title = f"pixel {query[0]}, {query[1]}"
        figure = attention_figure(self._canvas[None], [title], maps, [query], file, heads, sizes=[self._size])
        figure.set_dpi(_DPI)
        return figure

    def widget(self) -> Any:
        """Return the widget that a notebook shows: the photograph to click in, what the network says, and the maps.

        Raises:
            ImportError: ipywidgets is not installed.
        """
        import ipywidgets

        picture, words = ipywidgets.Image(format="png"), ipywidgets.HTML()
        place = ipywidgets.VBox()
        chooser = ipywidgets.Dropdown(options=list(self._networks), value=self.network, description="network")

        def ask(number: int, buttons: Sequence[Any]) -> None:
            for other, button in enumerate(buttons):
                (button.add_class if other == number else button.remove_class)("aa-flax-query")
            buffer = io.BytesIO()
            self.figure(*self._queries[number]).savefig(buffer, format="png", dpi=_DPI)
            picture.value = buffer.getvalue()

        def show() -> None:
            photo = self._clickable(ipywidgets, ask)
            place.children = (*([chooser] if len(self._networks) > 1 else []), photo, words)
            words.value = f"<pre>{_escaped(str(self.said))}</pre>"

        def choose(change: Any) -> None:
            self.choose(change["new"])
            show()

        chooser.observe(choose, names="value")
        show()
        return ipywidgets.HBox([place, picture])

    def _clickable(self, ipywidgets: Any, ask: Any) -> Any:
        """Return the photograph with a button over each part of it, of which the middle one is asked for."""
        name = f"aa-flax-photo-{next(_NUMBERS)}"
        height, width = self._size
        scale = _SIDE / max(height, width)
        rows, columns = self.grid
        cell = ipywidgets.Layout(width="auto", height="auto")
        buttons = [ipywidgets.Button(layout=cell, tooltip=f"pixel {row}, {column}") for row, column in self._queries]
        for number, button in enumerate(buttons):
            button.style.button_color = "transparent"
            button.on_click(functools.partial(lambda number, _: ask(number, buttons), number))
        layout = ipywidgets.Layout(
            width=f"{round(width * scale)}px",
            height=f"{round(height * scale)}px",
            grid_template_rows=f"repeat({rows}, 1fr)",
            grid_template_columns=f"repeat({columns}, 1fr)",
            grid_gap="0px",
        )
        grid = ipywidgets.GridBox(buttons, layout=layout)
        grid.add_class(name)
        style = ipywidgets.HTML(_STYLE.format(name=name, photo=_png(self._canvas[:height, :width])))
        ask(self._nearest(height // 2, width // 2), buttons)
        return ipywidgets.VBox([style, grid])

    def _nearest(self, row: int, column: int) -> int:
        """Return the number of the pixel of the grid whose part of the photograph has a pixel of the input."""
        height, width = self._size
        if not (0 <= row < height and 0 <= column < width):
            raise ValueError(f"pixel {row}, {column} lies outside the photograph, which has {height}x{width} pixels")
        rows, columns = self.grid
        return row * rows // height * columns + column * columns // width

    def _ipython_display_(self) -> None:
        from IPython.display import display

        try:
            display(self.widget())
        except ImportError:
            display(self.figure())
            print("With ipywidgets installed one can click here; explorer.figure(row, column) draws another pixel.")


def _middles(side: int, parts: int) -> list[int]:
    """Return the pixel in the middle of each of some equal parts of a side."""
    return [math.floor((part + 0.5) * side / parts) for part in range(parts)]


def _png(pixels: UInt8[np.ndarray, "h w c"]) -> str:
    """Return a picture as PNG in base64."""
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _escaped(text: str) -> str:
    """Return text for HTML."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
