"""The options of segmentation, and what they ask of the rest of the config."""

from dataclasses import dataclass
from typing import Literal

from aa_flax.config import fields
from aa_flax.config.schema import ConfigError
from aa_flax.data.preprocessing import Preprocessing
from aa_flax.typed import height_and_width


def _sides(value: int | tuple[int, ...]) -> bool:
    return isinstance(value, int) or (len(value) == 2 and min(value) > 0)


@dataclass(frozen=True)
class SegmentationOptions:
    """Options of segmentation: the fields of `config.task.options`."""

    average: Literal["valid", "all"] = fields.field(
        "valid",
        'what the losses of all pixels of a batch are divided by: "valid" is the weights of those with a class, as '
        'in PyTorch, "all" is the number of pixels with the ignored ones and the padding, as in mmsegmentation',
    )
    class_weights: tuple[float, ...] = fields.field(
        (),
        "weight of each class in the loss that is trained on, in the order of the labels; () is 1 for each",
        accepts=("numbers above 0", lambda weights: all(weight > 0 for weight in weights)),
    )
    window: int | tuple[int, ...] = fields.field(
        0,
        "pixels of a side, or height and width, of the windows that slide over a photograph when it is scored; 0 is no "
        "windows: the network gets all of it",
        at_least=0,
        accepts=("one number, or height and width such as 480,640, above 0", _sides),
    )
    stride: int | tuple[int, ...] = fields.field(
        0,
        "pixels from window to window, down and right; 0 is two thirds of the window",
        at_least=0,
        accepts=("one number, or height and width such as 320,426, above 0", _sides),
    )
    scales: tuple[float, ...] = fields.field(
        (1.0,),
        "factors of the sides with which a photograph is scored, 1 among them, and the mean of their probabilities is "
        "taken",
        above=0,
        accepts=("different numbers, 1 among them", lambda scales: 1 in scales and len({*scales}) == len(scales)),
    )
    flip: bool = fields.field(False, "whether it is scored mirrored too")


@dataclass(frozen=True)
class SegmentationDisplay:
    """What is printed and drawn about a photograph."""

    least_part: float = fields.field(
        0.001, "least part of the pixels of a class that is printed", at_least=0, at_most=1
    )
    opacity: float = fields.field(0.55, "opacity of the colours of classes over a photograph", at_least=0, at_most=1)


def require_whole_photographs(preprocessing: Preprocessing) -> None:
    """Raise ConfigError unless all of a photograph is seen, because all of its pixels are to be named."""
    if preprocessing.resize == "center_crop":
        raise ConfigError(
            "config field 'data.resize' must be 'fit' or 'squash', for which all of a photograph is segmented, got "
            "'center_crop', which is also what '' means with data.crop='resized'"
        )


def windows(options: SegmentationOptions) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return height and width of the windows, () without, and how far apart they are."""
    if not options.window:
        if options.stride:
            raise ConfigError("config field 'task.options.stride' goes with 'window', the size of windows that slide")
        return (), ()
    window = height_and_width("config field 'task.options.window'", options.window)
    if not options.stride:
        return window, tuple(-(-2 * side // 3) for side in window)
    stride = height_and_width("config field 'task.options.stride'", options.stride)
    if any(step > side for step, side in zip(stride, window, strict=True)):
        raise ConfigError(f"config field 'task.options.stride' is {stride}, larger than the window {window}")
    return window, stride
