"""Scores of a detector: gathered by each process, computed from the annotations and all that was found."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from aa_flax.data.annotated import Truth
from aa_flax.data.source import Source
from aa_flax.evaluation.coco import CocoScores, evaluate
from aa_flax.evaluation.detection_rows import DetectionRows, found_in, merged
from aa_flax.evaluation.detections import Found
from aa_flax.evaluation.matching import Matches, match_all
from aa_flax.evaluation.mistakes import Verdict, count_kinds, judge
from aa_flax.evaluation.score_threshold import ScoreThresholds, f1_by_threshold
from aa_flax.tasks.found_objects import labelled
from aa_flax.tasks.task import Scores

NO_SCORE = float("nan")
"""The value of a score that does not exist, which JSON writes as null."""
HeldOut = Callable[[Mapping[str, Any]], dict[str, float]]


@dataclass(frozen=True)
class Judged:
    """What was found in the photographs of a split, beside what is there; for pictures and files.

    Attributes:
        found: by the photograph's id.
        truths: of all photographs in the order of the split, None for a split without annotations.
        coco: the scores of boxes, None without annotations.
        coco_masks: those of masks, None without annotations or masks.
        masks: whether masks were found.
        class_names: of every class.
    """

    found: Mapping[int, Found]
    truths: Sequence[Truth] | None
    coco: CocoScores | None
    class_names: Sequence[str]
    coco_masks: CocoScores | None = None
    masks: bool = False

    @functools.cached_property
    def matches(self) -> Matches:
        """Return which detection is of which object; of a split with annotations."""
        return match_all(self.truths or (), self.found, len(self.class_names))

    @functools.cached_property
    def thresholds(self) -> ScoreThresholds:
        """Return F1 by score."""
        return f1_by_threshold(self.matches)

    @property
    def threshold(self) -> float:
        """Return the score from which detections are worth showing, that of the best F1; 0.5 if none is right."""
        best = self.thresholds.all.best
        return 0.5 if best is None else best

    @functools.cached_property
    def verdicts(self) -> list[Verdict]:
        """Return what is right and wrong from that score on."""
        return judge(self.truths or (), self.found, len(self.class_names), self.threshold)


class DetectionScorer:
    """Gathers the detections of a split, and scores them against all of its annotations."""

    def __init__(
        self, source: Source, class_names: Sequence[str], labels: Sequence[int], held_out: HeldOut, masks: bool = False
    ) -> None:
        """Make a scorer.

        Args:
            source: the held-out data.
            class_names: of every class, in the order of labels.
            labels: of each column of the network's scores; -1 for a column that stands for no class.
            held_out: the function from the sums over all images to the loss and its parts.
            masks: whether masks are found, and scored.
        """
        self._source, self._names, self._held_out, self._masks = source, tuple(class_names), held_out, masks
        self._labels = np.asarray(labels, np.int64)
        self._rows = DetectionRows(masks=masks)

    def add(self, index: np.ndarray, mask: np.ndarray, rows: Any, placement: np.ndarray | None) -> None:
        """Take this process's share of a batch."""
        assert placement is not None  # boxes are targets that are placed
        self._rows.add(index, mask, labelled(rows, self._labels), placement)

    def state(self) -> dict[str, np.ndarray]:
        """Return what this process has found."""
        return self._rows.state()

    def scores(self, sums: Mapping[str, Any], states: Sequence[Mapping[str, np.ndarray]]) -> Scores:
        """Return COCO's twelve numbers, of masks too, the loss and its parts, the best F1; details by class."""
        annotations = self._source.annotations
        if annotations.exist:
            annotations.require_truths()
        annotated = annotations.truths()
        found = found_in(merged(states), [each.image_id for each in annotated])
        truths = annotated if annotations.exist else None
        names, masks = self._names, self._masks
        of_masks = evaluate(truths, found, names, of="masks") if masks else None
        judged = Judged(found, truths, evaluate(truths, found, names), names, of_masks, masks)
        values, details = self._held_out(sums), dict[str, Any]()
        if judged.coco is not None:
            for start, scored in (("", judged.coco), ("mask_", judged.coco_masks)):
                if scored is not None:
                    values |= {name: NO_SCORE if value is None else value for name, value in scored.values.items()}
                    details[f"{start}AP_per_class"] = dict(zip(names, scored.by_class, strict=True))
                    details[f"{start}AP50_per_class"] = dict(zip(names, scored.by_class_50, strict=True))
            values |= {"threshold": judged.threshold, "F1": judged.thresholds.all.best_f1}
            kinds = count_kinds(judged.verdicts, len(self._names))
            details["mistakes"] = {kind: int(number.sum()) for kind, number in kinds.items()}
        else:
            values = dict.fromkeys((*values, "AP", *["mask_AP"] * masks), NO_SCORE)
        return Scores(values, details, len(annotated), drawn=judged)


def lines_by_class(details: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """Return a line with the average precision of each class, of boxes and, if there are any, of masks.

    Args:
        details: of scores; nothing where there are no annotations.
        names: of the classes as they are printed.
    """
    columns = [details[name].values() for name in ("AP_per_class", "mask_AP_per_class") if name in details]
    lines = ["   boxes     masks"] if len(columns) > 1 else []
    for name, values in zip(names, zip(*columns, strict=True), strict=False):
        numbers = "  ".join("     - %" if value is None else f"{100 * value:6.2f} %" for value in values)
        lines.append(f"{numbers}  {name}{', no objects' * (values[0] is None)}")
    return lines
