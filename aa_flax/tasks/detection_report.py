"""What a trained detector leaves for people: its detections as a file, and pictures of what it finds and misses."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from aa_flax.data.source import Source
from aa_flax.drawing.detection_gallery import mistakes_by_kind, truths_beside_detections, worst
from aa_flax.drawing.detection_plots import ap_by_class, f1_by_threshold, kinds_of_mistakes, precision_recall
from aa_flax.evaluation.coco_json import results_json
from aa_flax.evaluation.detections import Found
from aa_flax.evaluation.mistakes import count_kinds
from aa_flax.json_values import to_json
from aa_flax.tasks.detection_scores import Judged

_SHOWN = 6
"""How many photographs the gallery has, spread over the split."""


def write_detections(judged: Judged, source: Source, folder: Path) -> None:
    """Write all detections in COCO's results format, and what their numbers stand for.

    `detections.json` has boxes and, of a detector of masks, `masks.json` the masks of the same detections, with the
    numbers that the data set's files give to photographs and classes, or those that they got here; `photographs.json`
    has the photographs and classes of these numbers, in the form of COCO's annotations.
    """
    ids = source.annotations.category_ids
    (folder / "detections.json").write_text(results_json(judged.found, ids))
    if judged.masks:
        (folder / "masks.json").write_text(results_json(judged.found, ids, "masks"))
    images = [
        {"id": each.image_id, "file_name": each.file_name, "height": each.height, "width": each.width}
        for each in source.annotations.truths()
    ]
    categories = [{"id": number, "name": name} for number, name in zip(ids, judged.class_names, strict=True)]
    (folder / "photographs.json").write_text(to_json({"images": images, "categories": categories}, indent=1) + "\n")


def draw_report(judged: Judged, source: Source, folder: Path) -> None:
    """Draw curves by class, F1 by score, the kinds of mistakes with examples, and some photographs, as PNG files.

    Args:
        judged: what was found, of a split with annotations.
        source: the split.
        folder: where the pictures go.
    """
    names, truths = judged.class_names, list(judged.truths or ())
    assert judged.coco is not None
    precision_recall(judged.coco, names, folder / "precision_recall.png")
    ap_by_class(judged.coco, names, folder / "ap_by_class.png")
    f1_by_threshold(judged.thresholds, names, folder / "f1_by_threshold.png")
    kinds_of_mistakes(count_kinds(judged.verdicts, len(names)), names, folder / "kinds_of_mistakes.png")
    photo = _photos(source, [truth.image_id for truth in truths])
    file_names = {truth.image_id: truth.file_name for truth in truths}
    mistakes_by_kind(worst(judged.verdicts), photo, names, folder / "mistakes.png", file_names=file_names)
    chosen = [truths[place] for place in np.unique(np.linspace(0, len(truths) - 1, _SHOWN).round().astype(int))]
    masks = None if judged.coco_masks is None else ()
    nothing = Found(np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64), masks)
    truths_beside_detections(
        [photo(truth.image_id) for truth in chosen],
        chosen,
        [judged.found.get(truth.image_id, nothing) for truth in chosen],
        names,
        judged.threshold,
        folder / "detections.png",
    )


def _photos(source: Source, image_ids: list[int]) -> Callable[[int], np.ndarray]:
    """Return the function from the id of a photograph to its pixels."""
    places = {image_id: place for place, image_id in enumerate(image_ids)}
    return lambda image_id: source[places[image_id]]["image"]
