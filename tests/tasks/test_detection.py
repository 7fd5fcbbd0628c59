"""Tests of the task of detection on a tiny network: targets, losses against loops, columns of classes, and scores."""

import dataclasses
import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from aa_flax import data
from aa_flax.config.schema import ConfigError, resolve
from aa_flax.data import truths
from aa_flax.data.annotated import Objects, Truth
from aa_flax.data.boxes import Boxes
from aa_flax.data.placement import resized, scaled
from aa_flax.data.preprocessing import Preprocessing
from aa_flax.models.functional import functional
from aa_flax.ops import encode_boxes, match_anchors
from aa_flax.runs.hosts import gathered
from aa_flax.tasks import Task, found, make_task, rows_of, scorer_of
from aa_flax.tasks.detection import DetectionDisplay

NAMES, CANVAS = ("ant", "bee", "cat"), (48, 64)
TINY = dict(width=4, blocks=(1, 1, 1, 1), fpn_width=8, head_width=8, head_depth=1, min_level=3, max_level=5)


def preprocessing(**fields):
    values = dict(image_size=CANVAS, channels=3, mean=(0.5,) * 3, std=(0.25,) * 3, class_names=NAMES, dtype="float32")
    return Preprocessing(**{**values, "data_fingerprint": "", "resize": "fit", **fields})


def task(options=None, about=None, network=None, **groups):
    own = {"name": "retinanet_resnet18", "options": {**TINY, **groups.pop("model", {})}}
    tree = {
        "task": {"name": "detection", "options": {"most_objects": 5, **(options or {})}},
        "model": network or own,
        "data": {"crop": "scaled", "image_size": CANVAS, **groups.pop("data", {})},
        "batch_size": 4,
        **groups,
    }
    return make_task(resolve(tree), about or preprocessing())


def batch_of(rng, sizes=((48, 64), (40, 64), (48, 50), (48, 64)), objects=(2, 0, 1, 5), most=5):
    """Return a batch of random pixels with so many objects each, and images of these sizes on the canvas."""
    boxes = np.zeros((len(sizes), most, 4), np.float32)
    for i, (height, width) in enumerate(sizes):
        for j in range(objects[i]):
            x, y = np.sort(rng.uniform(0, width, 2)), np.sort(rng.uniform(0, height, 2))
            boxes[i, j] = x[0], y[0], max(x[1], x[0] + 4), max(y[1], y[0] + 4)
    valid = np.arange(most) < np.array(objects)[:, None]
    placement = [scaled(CANVAS)(*CANVAS).as_array() for _ in sizes]
    for row, size in zip(placement, sizes, strict=True):
        row[4:6], row[2:4], row[6:8] = size, size[::-1], size
    return {
        "image": jnp.asarray(rng.integers(0, 256, (len(sizes), *CANVAS, 3), np.uint8)),
        "boxes": jnp.asarray(boxes * valid[..., None]),
        "classes": jnp.asarray(rng.integers(0, 3, (len(sizes), most)) * valid, jnp.int32),
        "valid": jnp.asarray(valid),
        "placement": jnp.asarray(np.stack(placement)),
    }


def outputs_of(rng, the_task, images=4):
    count = len(the_task._network.anchor_boxes(*CANVAS))
    return {
        "classes": jnp.asarray(rng.normal(-2, 2, (images, count, the_task.num_columns)), jnp.float32),
        "boxes": jnp.asarray(rng.normal(0, 0.3, (images, count, 4)), jnp.float32),
    }


def losses_of(the_task, outputs, images, targets):
    """Return what `losses` of the task does of a network with these outputs in training, compiled."""

    @jax.jit
    def measured(outputs, images, targets):
        return the_task.losses(lambda *_, **__: outputs, images, targets, train=True, rngs=None)

    return measured(outputs, images, targets)


def iou(a, b):
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    shared = max(sides[0], 0) * max(sides[1], 0)
    return shared / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - shared)


def losses_by_hand(the_task, outputs, batch):
    """Return the class and the box loss of each image, and its positives, in float64 by loops over anchors."""
    options, anchors = the_task._network, the_task._network.anchor_boxes(*CANVAS).astype(np.float64)
    rules = dict(foreground=options.foreground_iou, background=options.background_iou, forced=options.forced_matches)
    matched = jax.jit(functools.partial(match_anchors, anchors.astype(np.float32), **rules))
    found = []
    for i in range(len(batch["image"])):
        logits, deltas = (np.asarray(outputs[name][i], np.float64) for name in ("classes", "boxes"))
        truths = np.asarray(batch["boxes"][i], np.float64)
        columns = [the_task._columns[int(c)] for c in batch["classes"][i]]
        which = np.asarray(matched(batch["boxes"][i], batch["valid"][i]))
        of_classes = of_boxes = 0.0
        for k, j in enumerate(which):
            if j == -2:
                continue
            hot = np.zeros(the_task.num_columns)
            if j >= 0:
                hot[columns[j]] = 1
            p = 1 / (1 + np.exp(-logits[k]))
            right = np.where(hot > 0, p, 1 - p)
            alpha = np.where(hot > 0, options.focal_alpha, 1 - options.focal_alpha)
            of_classes += (-alpha * (1 - right) ** options.focal_gamma * np.log(right)).sum()
            if j >= 0:
                a, t = anchors[k], truths[j]
                wanted = [(t[0] + t[2] - a[0] - a[2]) / 2, (t[1] + t[3] - a[1] - a[3]) / 2]
                wanted = np.array([*wanted, t[2] - t[0], t[3] - t[1]]) / np.tile(a[2:] - a[:2], 2)
                wanted[2:] = np.log(wanted[2:])
                d, knee = np.abs(deltas[k] - wanted), options.box_loss_delta
                if options.box_loss == "huber":
                    d = np.where(d <= knee, d**2 / 2, knee * (d - knee / 2))
                elif options.box_loss == "smooth_l1":
                    d = np.where(d < knee, d**2 / (2 * knee), d - knee / 2)
                of_boxes += options.box_loss_weight * d.mean()
        found.append((of_classes, of_boxes, (which >= 0).sum()))
    return np.array(found).T


FORMS = [
    dict(),
    dict(normalizer="image", box_loss="l1", forced_matches="low_quality", background_iou=0.4, focal_gamma=2.0),
    dict(normalizer="device", box_loss="smooth_l1", forced_matches=None, foreground_iou=0.4, background_iou=0.3),
]


@pytest.mark.few
@pytest.mark.parametrize("form", FORMS)
def test_losses_are_those_of_loops(rng, form):
    parts = 2 if form.get("normalizer") == "device" else 1
    the_task = task(model=form, parallel={"batch_norm_groups": parts}, data={"flip": False})
    batch = batch_of(rng)
    images, targets, total = jax.jit(the_task.prepare)(batch, jax.random.key(0))
    outputs = outputs_of(rng, the_task)
    losses, metrics = losses_of(the_task, outputs, images, targets)
    classes, boxes, positives = losses_by_hand(the_task, outputs, batch)
    if the_task._network.normalizer == "batch":
        expected = (classes + boxes).sum() / (positives.sum() + 1)
    elif the_task._network.normalizer == "image":
        expected = ((classes + boxes) / np.maximum(positives, 1)).mean()
    else:
        halves = [slice(0, 2), slice(2, 4)]
        expected = np.mean([(classes + boxes)[h].sum() / (positives[h].sum() + 1) for h in halves])
    np.testing.assert_allclose(losses.sum() / total, expected, rtol=2e-5)
    means = {name: float(sum_ / count) for name, (sum_, count) in metrics.items()}
    np.testing.assert_allclose(means["class_loss"] + means["box_loss"], expected, rtol=2e-5)
    np.testing.assert_allclose(means["positives"], positives.mean())
    sums = jax.jit(the_task.score)(outputs, {**batch, "mask": jnp.array([True, True, False, True])})
    kept = [0, 1, 3]
    share = np.maximum(positives, 1) if form.get("normalizer") == "image" else np.ones(4)
    np.testing.assert_allclose(sums["class_loss"], (classes / share)[kept].sum(), rtol=2e-5)
    np.testing.assert_allclose(sums["box_loss"], (boxes / share)[kept].sum(), rtol=2e-5)
    assert float(sums["positives"]) == positives[kept].sum() and float(sums["images"]) == 3


@pytest.mark.thorough
def test_a_batch_without_any_object_has_a_finite_loss_and_gradient(rng):
    the_task = task()
    model = the_task.build(nnx.Rngs(0))
    apply, params, stats = functional(model, the_task.losses)
    batch = batch_of(rng, objects=(0, 0, 0, 0))
    images, targets, total = the_task.prepare(batch, jax.random.key(0))

    @jax.jit
    @jax.value_and_grad
    def gradient(params):
        (losses, _), _ = apply(params, stats, images, targets, train=True, rngs=jax.random.key(1))
        return losses.sum() / total

    loss, grads = gradient(params)
    assert np.isfinite(loss) and loss > 0 and float(total) == 1
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
    assert any(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(grads["class_head"]))


def test_room_for_more_objects_changes_nothing(rng):
    batch, outputs, found = batch_of(rng), outputs_of(rng, task()), []
    for most in (5, 40):
        the_task = task(options={"most_objects": most})
        more = {
            name: jnp.pad(batch[name], ((0, 0), (0, most - 5), *((0, 0),) * (batch[name].ndim - 2)))
            for name in ("boxes", "classes", "valid")
        }
        images, targets, total = jax.jit(the_task.prepare)({**batch, **more}, jax.random.key(4))
        losses, _ = losses_of(the_task, outputs, images, targets)
        found.append((losses, total))
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-6)
    assert found[0][1] == found[1][1]


def test_mirrored_images_have_mirrored_targets(rng):
    """A white box in a black image is where the prepared targets say, whatever was mirrored."""
    the_task = task()
    batch = batch_of(rng, objects=(1, 1, 1, 1))
    pixels = np.zeros((4, *CANVAS, 3), np.uint8)
    boxes = np.round(np.asarray(batch["boxes"]))
    for i in range(4):
        x1, y1, x2, y2 = boxes[i, 0].astype(int)
        pixels[i, y1:y2, x1:x2] = 255
    batch |= {"image": jnp.asarray(pixels), "boxes": jnp.asarray(boxes)}
    turned = set()
    for key in range(4):
        images, targets, _ = the_task.prepare(batch, jax.random.key(key))
        for i in range(4):
            bright = np.asarray(images[i]).mean(-1) > 1
            rows, columns = np.flatnonzero(bright.any(1)), np.flatnonzero(bright.any(0))
            box = np.asarray(targets["boxes"][i, 0])
            assert box.tolist() == [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
            turned.add(box.tolist() == boxes[i, 0].tolist())
            height, width = np.asarray(batch["placement"][i, 4:6], int)
            assert (np.asarray(images[i])[height:] == 0).all() and (np.asarray(images[i])[:, width:] == 0).all()
    assert turned == {True, False}


@pytest.mark.parametrize(
    ("flavor", "options", "ids", "columns", "width"),
    [
        ("tpu", {}, (), [0, 1, 2], 3),
        ("torchvision", {}, (), [1, 2, 3], 4),
        ("tpu", {"columns": "category_ids"}, (3, 7, 4), [2, 6, 3], 7),
        ("torchvision", {"columns": "category_ids"}, (3, 7, 4), [3, 7, 4], 8),
    ],
)
def test_columns_stand_for_classes(flavor, options, ids, columns, width):
    the_task = task(options, preprocessing(category_ids=ids), model={"flavor": flavor})
    assert isinstance(the_task, Task) and list(the_task._columns) == columns
    assert the_task.num_columns == width and nnx.eval_shape(lambda: the_task.build(nnx.Rngs(0))).num_classes == width
    assert [the_task.labels[column] for column in columns] == [0, 1, 2]
    assert sorted(the_task.labels.tolist()) == [-1] * (width - 3) + [0, 1, 2]


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"data": {"mixup": 0.2}}, "data.mixup"),
        ({"data": {"crop": "pad"}}, "data.crop"),
        ({"data": {"auto_augment": "rand"}}, "data.auto_augment"),
        ({"model": {"anchor_scales": 0}}, "anchor_scales"),
        ({"model": {"widths": 4}}, "no option 'widths'"),
        ({"options": {"columns": "category_ids"}}, "category_ids"),
    ],
)
def test_what_detection_does_not_have(groups, message):
    with pytest.raises(ConfigError, match=message):
        task(**groups)


def test_a_classifier_is_no_detector():
    tree = {"task": {"name": "detection"}, "model": {"name": "resnet18"}, "data": {"crop": "none"}}
    with pytest.raises(ConfigError, match=r"'resnet18' is a network for classification.*retinanet_resnet18"):
        make_task(resolve(tree), preprocessing())


class Held(data.Source):
    """Annotated photographs without pixels."""

    name, image_shape, target_shapes = "held", (None, None, 3), {}

    def __init__(self, truths, exist=True):
        self._truths, self.exist, self.category_ids, self.annotations = truths, exist, (1, 2, 3), self

    def truths(self):
        return self._truths

    def require_truths(self):
        assert self.exist

    def require_at_most(self, most):
        assert all(len(each.objects) <= most for each in self._truths)

    def __len__(self):
        return len(self._truths)

    def __getitem__(self, index):
        raise AssertionError

    def __getitems__(self, indices):
        raise AssertionError

    def cached(self):
        return self


@pytest.fixture
def held(rng):
    found = []
    for i in range(5):
        height, width = (int(side) for side in rng.integers(60, 130, 2))
        corner = rng.uniform(0, 40, (3, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(12, 20, (3, 2))], 1)[: i % 4]
        labels, count = np.arange(len(boxes)) % 3, len(boxes)
        area = np.prod(boxes[:, 2:] - boxes[:, :2], 1)
        objects = Objects(boxes, labels, np.zeros(count, bool), area, np.arange(count) + 1)
        found.append(Truth(10 * i + 7, f"{i}.jpg", height, width, objects))
    return Held(found)


def rows_for(the_task, held, index, most=4):
    """Return rows of a perfect detector on its canvas, the columns of unused classes among them, and placements."""
    rows = {
        "boxes": np.zeros((len(index), most, 4), np.float32),
        "scores": np.full((len(index), most), -np.inf, np.float32),
        "classes": np.full((len(index), most), -1, np.int32),
        "valid": np.zeros((len(index), most), bool),
    }
    placements = []
    for row, i in enumerate(index):
        truth = held.truths()[i]
        placement = scaled(CANVAS)(truth.height, truth.width).as_array()
        count = len(truth.objects)
        scale = np.tile([placement[5] / truth.width, placement[4] / truth.height], 2)
        rows["boxes"][row, :count] = truth.objects.boxes * scale
        rows["scores"][row, :count] = np.linspace(0.9, 0.6, count)
        rows["classes"][row, :count] = [the_task._columns[label] for label in truth.objects.labels]
        rows["valid"][row, :count] = True
        rows["boxes"][row, 3], rows["scores"][row, 3], rows["classes"][row, 3] = [0, 0, 9, 9], 0.95, 0
        rows["valid"][row, 3] = True  # column 0 stands for no class here
        placements.append(placement)
    return rows, np.stack(placements)


SUMS = {"class_loss": 6.0, "box_loss": 3.0, "positives": 2.0, "images": 5.0}


def test_a_perfect_detector_scores_one_on_any_number_of_processes(held):
    the_task = task(model={"flavor": "torchvision", "normalizer": "batch"})
    alone, halves = scorer_of(the_task, held), [scorer_of(the_task, held) for _ in range(2)]
    for index in ([0, 1, 2], [3, 4, 4]):  # the last one fills up the batch
        mask = np.array([True, True, index != [3, 4, 4]])
        rows, placement = rows_for(the_task, held, index)
        alone.add(np.array(index), mask, rows, placement)
        for process, part in enumerate((slice(0, 1), slice(1, 3))):
            some = {name: values[part] for name, values in rows.items()}
            halves[process].add(np.array(index)[part], mask[part], some, placement[part])
    scores = alone.scores(SUMS, gathered(alone.state()))
    assert scores.values["AP"] == scores.values["AR100"] == 1.0 and scores.examples == 5
    assert (scores.values["loss"], scores.values["class_loss"], scores.values["box_loss"]) == (3.0, 2.0, 1.0)
    assert np.isnan(scores.values["AP_large"]) and scores.details["mistakes"]["missed"] == 0
    split = halves[0].scores(SUMS, [each.state() for each in halves])
    assert split.values.keys() == scores.values.keys() and split.details == scores.details
    np.testing.assert_equal(dict(split.values), dict(scores.values))
    assert the_task.lines(scores) == ["100.00 %  ant", "100.00 %  bee", "100.00 %  cat"]


def test_photographs_without_annotations_have_detections_and_no_score(held, tmp_path):
    import json

    the_task, held.exist = task(model={"flavor": "torchvision"}), False
    scorer = scorer_of(the_task, held)
    rows, placement = rows_for(the_task, held, range(5))
    scorer.add(np.arange(5), np.ones(5, bool), rows, placement)
    scores = scorer.scores(SUMS, [scorer.state()])
    assert np.isnan(scores.values["AP"]) and np.isnan(scores.values["loss"]) and not scores.details
    the_task.report(nnx.Linear(1, 1, rngs=nnx.Rngs(0)), scores, held, tmp_path)
    detections = json.loads((tmp_path / "detections.json").read_text())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["detections.json", "photographs.json"]
    numbers = json.loads((tmp_path / "photographs.json").read_text())
    assert [each["file_name"] for each in numbers["images"]] == [f"{i}.jpg" for i in range(5)]
    assert numbers["categories"] == [{"id": k + 1, "name": name} for k, name in enumerate(NAMES)]
    assert {row["image_id"] for row in detections} == {17, 27, 37} and len(detections) == 6
    x, y, width, height = detections[0]["bbox"]
    box = held.truths()[1].objects.boxes[0]
    np.testing.assert_allclose([x, y, x + width, y + height], box, atol=2e-3)


def test_what_is_found_in_a_photograph():
    the_task = task(about=preprocessing(class_names=("ant", "a\nb", "ant"), category_ids=(3, 5, 11)))
    placement = scaled(CANVAS)(480, 640).as_array()
    row = {
        "boxes": np.array([[6.4, 4.8, 70, 24], [0, 0, 5, 5], [1, 1, 2, 2]], np.float32),
        "scores": np.array([0.9, 0.25, -np.inf], np.float32),
        "classes": np.array([1, 0, -1]),
        "valid": np.array([True, True, False]),
    }
    objects = found(the_task, row, placement)
    np.testing.assert_allclose(objects.boxes, [[64, 48, 640, 240], [0, 0, 50, 50]], rtol=1e-5)
    lines = the_task.describe(objects, DetectionDisplay(threshold=0.3))
    assert len(lines) == 1 and "90.00 %" in lines[0] and "64.0, 48.0 to 640.0, 240.0" in lines[0]
    assert len(the_task.describe(objects, DetectionDisplay(threshold=0.2))) == 2
    assert the_task.describe(objects, DetectionDisplay(threshold=0.95)) == ["  nothing with a score of 0.95 or more"]
    (one,) = the_task.values(objects, DetectionDisplay(threshold=0.3))
    assert (one["class"], one["label"], one["category_id"], len(one["box"])) == ("a\nb", 1, 5, 4)
    number, words = the_task.captions(objects)[0]
    assert number == 1 and words.endswith("90.0 %")


def test_rows_of_the_networks_outputs(rng):
    """Outputs that encode objects come out as these, clipped as the flavor clips, in falling score."""
    the_task = task(model={"flavor": "torchvision"})
    anchors = the_task._network.anchor_boxes(*CANVAS)
    truth = np.array([[5, 6, 30, 40], [33, 10, 60, 44]], np.float32)
    logits = np.full((1, len(anchors), the_task.num_columns), -9.0, np.float32)
    deltas = np.zeros((1, len(anchors), 4), np.float32)
    for j, column in enumerate((1, 3)):
        k = int(np.argmax([iou(a, truth[j]) for a in anchors.astype(float)]))
        logits[0, k, column], deltas[0, k] = 3 - j, encode_boxes(truth[j : j + 1], anchors[k : k + 1])[0]
    rows = rows_of(
        the_task,
        {"classes": jnp.asarray(logits), "boxes": jnp.asarray(deltas)},
        jnp.zeros((1, *CANVAS, 3)),
        jnp.asarray([resized(CANVAS)(*CANVAS).as_array()]),
    )
    assert int(rows["valid"].sum()) == 2 and rows["classes"][0, :2].tolist() == [1, 3]
    np.testing.assert_allclose(rows["boxes"][0, :2], truth, atol=1e-3)


def test_targets_are_boxes_with_room_for_as_many_as_are_asked():
    targets = task(options={"most_objects": 9, "least_side": 2.5}).targets
    assert isinstance(targets, Boxes) and targets.most == 9 and targets.least_side == 2.5


def test_titles_count_the_objects():
    example = {"classes": np.array([1, 1, 0, 0]), "valid": np.array([True, True, True, False])}
    assert task().title(example) == "2 bee, 1 ant"
    assert task().title({**example, "valid": np.zeros(4, bool)}) == "nothing"


def test_the_parts_of_a_batch_must_divide_it():
    the_task = task(model={"normalizer": "device"}, parallel={"batch_norm_groups": 2})
    the_task.check(1)
    odd = dataclasses.replace(the_task.config, batch_size=5)
    with pytest.raises(ConfigError, match="batch_norm_groups"):
        make_task(odd, preprocessing()).check(1)


@pytest.mark.usefixtures("unchecked_shapes")
def test_splits_in_which_nothing_can_be_scored(held, monkeypatch):
    split, annotated = held.truths(), [True]
    monkeypatch.setattr(truths, "read_truths", lambda prepared, name: split)
    monkeypatch.setattr(truths, "is_annotated", lambda prepared, name: annotated[0])
    truths.Annotations(None, "val").require_truths()
    for place, each in enumerate(split):
        crowds = dataclasses.replace(each.objects, crowd=np.ones(len(each.objects), bool))
        split[place] = dataclasses.replace(each, objects=crowds)
    with pytest.raises(data.DataError, match="'val': no photograph has an annotated object"):
        truths.Annotations(None, "val").require_truths()
    annotated[0] = False
    with pytest.raises(data.DataError, match="'val': the photographs are not annotated"):
        truths.Annotations(None, "val").require_truths()


@pytest.mark.usefixtures("unchecked_shapes")
def test_classes_in_another_order_are_told():
    def of(names, has_objects=True):
        return SimpleNamespace(name="mine", class_names=names, has_objects=has_objects)

    task().check_dataset(of(NAMES))
    with pytest.raises(ConfigError, match="in another order"):
        task().check_dataset(of(("bee", "ant", "cat")))
    with pytest.raises(ConfigError, match="images of one class each"):
        task().check_dataset(of(NAMES, False))


def test_a_network_for_label_maps_is_told_its_task():
    tree = {"task": {"name": "detection"}, "model": {"name": "upernet_resnet18"}, "data": {"crop": "none"}}
    with pytest.raises(ConfigError, match="'upernet_resnet18', which detection cannot train; task.name='segmentation'"):
        make_task(resolve(tree), preprocessing())
