"""Detections of a run, gathered batch by batch: from padded arrays on canvases to photographs, each photograph once."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from aa_flax.data.masks import RunLengths, encoded
from aa_flax.data.placement import boxes_in_photo
from aa_flax.evaluation.detections import Found
from aa_flax.evaluation.pasting import paste

State = dict[str, np.ndarray]
"""Detections of some photographs as arrays: "index" [n], rising, and "counts" [n] of the photographs; "boxes" [m, 4] in
float64 and photographs' pixels, "scores" [m] and "labels" [m] of the detections, photograph by photograph. With masks
besides "sizes" [n, 2], height and width of the photographs, and of the detections "mask_lengths" [m] and "mask_bytes",
the run lengths of all masks one after the other."""

_DECIMALS = 3
"""Of a pixel of the photograph. On a canvas of 640 pixels float32 tells about as much, and its last bits differ between
devices; without them the file of results is half as long."""


class DetectionRows:
    """A gatherer of detections.

    Padding of a batch is left out by its mask, and a photograph that comes again counts once, with what came first.
    Boxes are rounded to a thousandth of a pixel. Masks are pasted into the photograph, into the box as it was found and
    neither rounded nor clipped, and kept as run lengths: a hundred of them take some ten kilobytes.
    """

    def __init__(self, clip: bool = True, masks: bool = False) -> None:
        """Make an empty gatherer.

        Args:
            clip: whether boxes are clipped to the photograph.
            masks: whether detections have masks.
        """
        self._clip, self._masks = clip, masks
        self._found: dict[int, Found] = {}
        self._sizes: dict[int, tuple[int, int]] = {}

    def __len__(self) -> int:
        return len(self._found)

    def add(
        self,
        index: Int[np.ndarray, " b"],
        mask: Bool[np.ndarray, " b"],
        rows: Mapping[str, Any],
        placement: Float[np.ndarray, "b 8"],
    ) -> None:
        """Add the detections of a batch.

        Args:
            index: the number of each photograph in its data.
            mask: False for copies that fill the batch.
            rows: "boxes" [b, k, 4], x1, y1, x2, y2 in pixels of the canvas; "scores" [b, k]; "classes" [b, k], whole
                numbers from 0; "valid" [b, k], False for rows that hold no detection; with masks "masks" [b, k, m, m],
                probabilities for the cells of each box.
            placement: of each photograph on its canvas, from `Placement.as_array`.

        Raises:
            ValueError: a detection that is valid has a box or a score that is not finite.
        """
        boxes, scores, classes, valid = (np.asarray(rows[name]) for name in ("boxes", "scores", "classes", "valid"))
        for i in np.flatnonzero(mask):
            number = int(index[i])
            if number in self._found:
                continue
            own = valid[i].astype(bool)
            values = np.asarray(scores[i][own], np.float64)
            here = boxes_in_photo(np.asarray(boxes[i][own], np.float64), placement[i])
            if not (np.isfinite(here).all() and np.isfinite(values).all()):
                raise ValueError(
                    f"rows: photograph {number} has a valid detection with a box or score that is not finite"
                )
            height, width = size = int(placement[i][6]), int(placement[i][7])
            masks = None
            if self._masks:
                squares = np.asarray(rows["masks"][i])[own]
                masks = tuple(encoded(paste(*each, size)) for each in zip(squares, here, strict=True))
                self._sizes[number] = size
            if self._clip:
                here = np.clip(here, 0, np.array([width, height, width, height], np.float64))
            self._found[number] = Found(here.round(_DECIMALS), values, classes[i][own].astype(np.int64), masks)

    def state(self) -> State:
        """Return what was gathered, as arrays that processes can send each other."""
        numbers = sorted(self._found)
        some = [self._found[number] for number in numbers]
        return self._masks_of(numbers) | {
            "index": np.array(numbers, np.int64),
            "counts": np.array([len(one) for one in some], np.int64),
            "boxes": np.concatenate([np.zeros((0, 4)), *(one.boxes for one in some)]),
            "scores": np.concatenate([np.zeros(0), *(one.scores for one in some)]),
            "labels": np.concatenate([np.zeros(0, np.int64), *(one.labels for one in some)]),
        }

    def _masks_of(self, numbers: Sequence[int]) -> State:
        """Return the arrays of the masks of photographs, none without masks."""
        if not self._masks:
            return {}
        counts = [mask.counts for number in numbers for mask in self._found[number].masks or ()]
        return {
            "sizes": np.array([self._sizes[number] for number in numbers], np.int64).reshape(-1, 2),
            "mask_lengths": np.array([len(each) for each in counts], np.int64),
            "mask_bytes": np.frombuffer(b"".join(counts), np.uint8),
        }


def merged(states: Iterable[Mapping[str, np.ndarray]]) -> State:
    """Return the states of several processes as one; a photograph that several have counts once, from the first."""
    states = list(states)
    all_of_them = DetectionRows(masks=any("sizes" in state for state in states))
    for state in states:
        sizes = zip(state["index"].tolist(), map(tuple, state.get("sizes", np.zeros(0)).tolist()), strict=False)
        all_of_them._sizes |= dict(sizes)
        for number, one in _by_index(state):
            all_of_them._found.setdefault(number, one)
    return all_of_them.state()


def found_in(state: Mapping[str, np.ndarray], image_ids: Sequence[int]) -> dict[int, Found]:
    """Return what was found in each photograph of a state, by its id.

    Args:
        state: from `DetectionRows.state` or `merged`.
        image_ids: of all photographs of the data, in its order.

    Raises:
        ValueError: the state has a photograph that the data do not have.
    """
    if len(state["index"]) and state["index"][-1] >= len(image_ids):
        raise ValueError(
            f"state: detections of photograph {state['index'][-1]}, counted from 0, of data that have {len(image_ids)}"
        )
    return {image_ids[number]: one for number, one in _by_index(state)}


def _by_index(state: Mapping[str, np.ndarray]) -> Iterable[tuple[int, Found]]:
    ends = np.cumsum(state["counts"])
    masks = _all_masks(state)
    for number, start, end in zip(state["index"], ends - state["counts"], ends, strict=True):
        boxes, scores, labels = (state[name][start:end] for name in ("boxes", "scores", "labels"))
        yield int(number), Found(boxes, scores, labels, None if masks is None else masks[start:end])


def _all_masks(state: Mapping[str, np.ndarray]) -> tuple[RunLengths, ...] | None:
    """Return the masks of all detections of a state, None without masks."""
    if "sizes" not in state:
        return None
    sizes = map(tuple, np.repeat(state["sizes"], state["counts"], 0).tolist())
    content, ends = state["mask_bytes"].tobytes(), np.cumsum(state["mask_lengths"])
    starts = ends - state["mask_lengths"]
    return tuple(RunLengths(size, content[start:end]) for size, start, end in zip(sizes, starts, ends, strict=True))
