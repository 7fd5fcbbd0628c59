"""Tests of the task of segmentation: losses and label maps against loops in float64, scores, and what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from label_sets import labelled, write_labelled

from aa_flax import data
from aa_flax.config.schema import ConfigError, resolve
from aa_flax.data.placement import scaled
from aa_flax.data.preprocessing import Preprocessing
from aa_flax.evaluation.segmentation import confusion
from aa_flax.runs.hosts import gathered
from aa_flax.tasks import Task, found, make_task, scorer_of, segmentation_losses
from aa_flax.tasks.segmentation_options import SegmentationDisplay
from aa_flax.tasks.segmentation_report import name_of
from aa_flax.tasks.segmented import Segmented

NAMES, CANVAS = ("sky", "road", "tree"), (22, 30)
TINY = dict(width=4, blocks=(1, 1, 1, 1), head_width=8, auxiliary_width=8)


def preprocessing(**fields):
    values = dict(image_size=CANVAS, channels=3, mean=(0.5,) * 3, std=(0.25,) * 3, class_names=NAMES, dtype="float32")
    return Preprocessing(**{**values, "data_fingerprint": "", "resize": "fit", **fields})


def task(options=None, about=None, **groups):
    tree = {
        "task": {"name": "segmentation", "options": options or {}},
        "model": {"name": "upernet_resnet18", "options": {**TINY, **groups.pop("model", {})}},
        "data": {"crop": "scaled", "image_size": CANVAS, **groups.pop("data", {})},
        "batch_size": 3,
        **groups,
    }
    return make_task(resolve(tree), about or preprocessing())


PHOTOS = ((22, 30), (37, 31), (11, 29))
"""Heights and widths: of the canvas's own size, taller, and wider."""


def batch_of(rng, photos=PHOTOS):
    """Return a batch of photographs of these sizes with random labels, a fifth of them ignored, and their padding."""
    placements = np.stack([scaled(CANVAS)(*photo).as_array() for photo in photos])
    labels = rng.choice(np.array([0, 1, 2, 255], np.uint8), (len(photos), *CANVAS), p=[0.4, 0.2, 0.2, 0.2])
    images = rng.integers(0, 256, (len(photos), *CANVAS, 3), np.uint8)
    for each, image, (height, width) in zip(labels, images, placements[:, 4:6].astype(int), strict=True):
        each[height:], each[:, width:], image[height:], image[:, width:] = 255, 255, 0, 0
    arrays = {"image": images, "labels": labels, "placement": placements, "mask": np.ones(len(photos), bool)}
    return {name: jnp.asarray(values) for name, values in arrays.items()}


def resized(x, size):
    """Return maps [h, w, c] in another size by loops: bilinear, half-pixel centres, two pixels a side, float64."""
    for axis, new in enumerate(size):
        x, old = np.moveaxis(np.asarray(x, np.float64), axis, 0), x.shape[axis]
        lines = []
        for i in range(new):
            at = min(max((i + 0.5) * old / new - 0.5, 0), old - 1)
            low = int(at)
            high = min(low + 1, old - 1)
            lines.append(x[low] * (low + 1 - at) + x[high] * (at - low))
        x = np.moveaxis(np.stack(lines), 0, axis)
    return x


def cross_entropies(logits, labels, weights=(1, 1, 1)):
    """Return the sum of the losses of an image's pixels, its pixels with a class, their weights, and those right."""
    logits = resized(logits, labels.shape)
    total, pixels, weighed, right = 0.0, 0, 0.0, 0
    for scores, label in zip(logits.reshape(-1, 3), labels.reshape(-1), strict=True):
        if label != 255:
            total += weights[label] * (np.log(np.exp(scores).sum()) - scores[label])
            pixels, weighed, right = pixels + 1, weighed + weights[label], right + (scores.argmax() == label)
    return total, pixels, weighed, right


@pytest.mark.few
@pytest.mark.parametrize("form", [{}, {"average": "all"}, {"class_weights": (0.5, 2.0, 1.0)}])
def test_losses_are_those_of_loops(rng, form):
    the_task, batch = task(form, data={"flip": False}), batch_of(rng)
    images, targets, total = jax.jit(the_task.prepare)(batch, jax.random.key(0))
    outputs = {"logits": rng.normal(0, 2, (3, 6, 8, 3)), "auxiliary": rng.normal(0, 2, (3, 2, 2, 3))}
    outputs = {name: jnp.asarray(values, jnp.float32) for name, values in outputs.items()}

    @jax.jit
    def measured(outputs, images, targets):
        return the_task.losses(lambda *_, **__: outputs, images, targets, train=True, rngs=None)

    losses, metrics = measured(outputs, images, targets)
    weights, labels = form.get("class_weights", (1, 1, 1)), np.asarray(batch["labels"])
    main, auxiliary = (
        np.array([cross_entropies(x, y, weights) for x, y in zip(outputs[name], labels, strict=True)]).T
        for name in ("logits", "auxiliary")
    )
    divisor = labels.size if form.get("average") == "all" else main[2].sum()
    np.testing.assert_allclose(total, divisor, rtol=1e-6)
    np.testing.assert_allclose(losses, main[0] + 0.4 * auxiliary[0], rtol=1e-5)
    means = {name: float(above / below) for name, (above, below) in metrics.items()}
    np.testing.assert_allclose(means["main_loss"], main[0].sum() / divisor, rtol=1e-5)
    np.testing.assert_allclose(means["auxiliary_loss"], auxiliary[0].sum() / divisor, rtol=1e-5)
    np.testing.assert_allclose(means["pixel_accuracy"], main[3].sum() / main[1].sum(), rtol=1e-6)
    # Micro-batches are divided by what the whole batch was divided by.
    part = jax.tree.map(lambda x: x[2:], (outputs, images, targets))
    above, below = measured(*part)[1]["main_loss"]
    np.testing.assert_allclose(above, main[0, 2], rtol=1e-5)
    np.testing.assert_allclose(below, divisor / 3, rtol=1e-6)


def test_the_presence_loss_is_the_mean_over_images_and_classes(rng):
    """Of three images, one of which is ignored as a whole; a micro-batch has its share of the same mean."""
    the_task, plain = (task({}, data={"flip": False}, model=it) for it in ({"presence_head": True}, {}))
    batch = batch_of(rng)
    batch["labels"] = (
        batch["labels"].at[1].set(255).at[0].set(jnp.where(batch["labels"][0] == 2, 0, batch["labels"][0]))
    )
    images, targets, total = jax.jit(the_task.prepare)(batch, jax.random.key(0))
    outputs = {name: rng.normal(0, 2, shape) for name, shape in (("logits", (3, 6, 8, 3)), ("presence", (3, 3)))}
    outputs = {name: jnp.asarray(values, jnp.float32) for name, values in outputs.items()}

    @functools.partial(jax.jit, static_argnums=0)
    def measured(the_task, outputs, images, targets):
        return the_task.losses(lambda *_, **__: outputs, images, targets, train=True, rngs=None)

    losses, metrics = measured(the_task, outputs, images, targets)
    expected = np.zeros(3)
    for i, there in ((0, {0, 1}), (2, {0, 1, 2})):
        probabilities = 1 / (1 + np.exp(-np.asarray(outputs["presence"][i], np.float64)))
        expected[i] = np.mean([-np.log(p if k in there else 1 - p) for k, p in enumerate(probabilities)])
    above, below = metrics["presence_loss"]
    np.testing.assert_allclose(above / below, expected.mean(), rtol=1e-5)
    without, others = measured(plain, outputs, images, targets)
    np.testing.assert_allclose((losses - without) / total, 0.2 * expected / 3, rtol=1e-3, atol=1e-6)
    assert {*the_task.metrics} == {*metrics} == {*others, "presence_loss"} and {*plain.metrics} == {*others}
    above, below = measured(the_task, *jax.tree.map(lambda x: x[2:], (outputs, images, targets)))[1]["presence_loss"]
    np.testing.assert_allclose(above / below, expected[2], rtol=1e-5)


@pytest.mark.few
@pytest.mark.parametrize("form", [{}, {"class_weights": (0.5, 2.0, 1.0)}])
def test_a_batch_without_any_class_has_a_finite_loss_and_no_gradient(rng, form):
    the_task, batch = task(form), batch_of(rng)
    batch["labels"] = jnp.full_like(batch["labels"], 255)
    images, targets, total = jax.jit(the_task.prepare)(batch, jax.random.key(0))

    @jax.jit
    def loss(logits):
        losses, metrics = the_task.losses(lambda *_, **__: logits, images, targets, train=True, rngs=None)
        return losses.sum() / total, metrics

    logits = jnp.asarray(rng.normal(0, 2, (3, 6, 8, 3)), jnp.float32)
    (value, metrics), gradient = jax.value_and_grad(loss, has_aux=True)(logits)
    assert value == 0 and float(total) == 1 and not np.asarray(gradient).any()
    assert all(np.isfinite(above) for above, _ in metrics.values())


def test_mirrored_images_have_mirrored_labels(rng):
    the_task, batch = task(), batch_of(rng)
    grey = np.where(np.asarray(batch["labels"]) == 255, 0, 40 * np.asarray(batch["labels"].astype(int)) + 40)
    batch["image"] = jnp.asarray(np.repeat(grey[..., None], 3, -1), jnp.uint8)
    turned, prepare = set(), jax.jit(the_task.prepare)
    for key in range(4):
        images, targets, _ = prepare(batch, jax.random.key(key))
        pixels = np.round((np.asarray(images) * 0.25 + 0.5) * 255).astype(int)[..., 0]
        labels = np.asarray(targets["labels"])
        there = labels != 255
        assert (pixels[there] == 40 * labels[there].astype(int) + 40).all()
        for i, (height, width) in enumerate(np.asarray(batch["placement"][:, 4:6], int)):
            assert (labels[i, height:] == 255).all() and (labels[i, :, width:] == 255).all()
            turned.add(bool((labels[i] == np.asarray(batch["labels"][i])).all()))
    assert turned == {True, False}


KERNEL = np.random.default_rng(5).normal(0, 0.4, (4, 4, 3, 3)).astype(np.float32)


def network(images, numpy=np):
    """Return logits at stride 4 that depend on all pixels below them and on where they lie in the image or window."""
    height, width = images.shape[1:3]
    padded = numpy.pad(images, ((0, 0), (0, -height % 4), (0, -width % 4), (0, 0)))
    cells = padded.reshape(len(images), padded.shape[1] // 4, 4, padded.shape[2] // 4, 4, 3)
    logits = numpy.einsum("brycxi,yxio->brco", cells, KERNEL)
    down, right = np.arange(logits.shape[1])[:, None, None], np.arange(logits.shape[2])[:, None]
    place = down * np.array([1, 0, -1]) + right * np.array([0, 1, 0])
    return logits + 0.2 * numpy.asarray(place[None], logits.dtype)


class Fixed:
    """A network of the task that has no parameters."""

    def __call__(self, images, *, train, rngs):
        assert not train
        return network(images, jnp)


def windows_by_hand(size, crop, stride):
    """Return the first pixel of each window, as mmsegmentation has them."""
    count = max(size - crop + stride - 1, 0) // stride + 1
    return [max(min(i * stride + crop, size) - crop, 0) for i in range(count)]


def canvas_logits(image, size, crop, stride):
    """Return the logits of the pixels of an image of some size on its canvas, whole or as the mean of windows."""
    height, width = size
    if not crop:
        return resized(network(image[None])[0], image.shape[:2])[:height, :width]
    total, count = np.zeros((height, width, 3)), np.zeros((height, width, 1))
    for top in windows_by_hand(height, crop[0], stride[0]):
        for left in windows_by_hand(width, crop[1], stride[1]):
            here = np.s_[top : top + crop[0], left : left + crop[1]]
            total[here] += resized(network(image[here][None])[0], crop)
            count[here] += 1
    return total / count


def scores_by_hand(image, size, photo, scales, flip, crop, stride):
    """Return the logits, or the mean of several views' probabilities, of each pixel of a photograph."""
    views = []
    for scale in scales:
        for mirrored in (False, True) if flip else (False,):
            seen = image.copy()
            if mirrored:
                seen[:, : size[1]] = image[:, : size[1]][:, ::-1]
            canvas, inside = (tuple(round(side * scale) for side in of) for of in (image.shape[:2], size))
            seen = resized(seen, canvas).astype(np.float32)
            logits = resized(canvas_logits(seen, inside, crop, stride), size)
            views.append(resized(logits[:, ::-1] if mirrored else logits, photo))
    if len(views) == 1:
        return views[0]
    return np.mean([np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in views], 0)


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("photo", "options"),
    [
        ((33, 45), {}),  # 22 × 30 on the canvas
        ((17, 22), dict(window=12, scales=(1.0, 1.5), flip=True)),
        ((33, 45), dict(window=(16, 12), stride=(5, 7))),
        ((44, 60), dict(scales=(1.5, 1.0), flip=True)),
        ((22, 30), dict(flip=True)),
    ],
)
def test_label_maps_are_those_of_loops(rng, photo, options):
    the_task = task(options)
    image = rng.normal(0, 1, (1, *CANVAS, 3)).astype(np.float32)
    placement = scaled(CANVAS)(*photo).as_array()
    height, width = size = tuple(placement[4:6].astype(int))
    image[:, height:], image[:, :, width:] = 0, 0
    predicted = jax.jit(lambda image: the_task.predict(Fixed(), image, jnp.asarray(placement)[None]))(image)
    rows = jax.tree.map(lambda x: np.asarray(x[0]), predicted)
    labels = found(the_task, rows, placement).labels
    scales, flip = options.get("scales", (1.0,)), options.get("flip", False)
    expected = scores_by_hand(image[0], size, photo, scales, flip, the_task._window, the_task._stride)
    ranked = np.sort(expected, -1)
    clear = ranked[..., -1] - ranked[..., -2] > 1e-4
    assert labels.shape == photo and clear.mean() > 0.99 and len(np.unique(labels)) == 3
    np.testing.assert_array_equal(labels[clear], expected.argmax(-1)[clear])


@pytest.mark.few
@pytest.mark.parametrize("options", [dict(window=(16, 12), stride=(5, 7), scales=(1.5, 1.0), flip=True), {}])
def test_the_held_out_loss_is_that_of_the_canvas(rng, options, monkeypatch):
    """Strips of three rows give what all rows at once give."""
    the_task, batch = task(options), batch_of(rng)
    images = jnp.asarray(rng.normal(0, 1, batch["image"].shape), jnp.float32)
    monkeypatch.setattr(segmentation_losses, "_STRIP", 3 * 3 * CANVAS[1])
    batch["mask"] = jnp.array([True, True, False])

    @jax.jit
    def score(images, batch):
        return the_task.score(the_task.predict(Fixed(), images, batch["placement"]), batch)

    sums = score(images, batch)
    loss = pixels = 0
    for i in range(2):
        height, width = size = tuple(np.asarray(batch["placement"][i, 4:6], int))
        logits = canvas_logits(np.asarray(images[i]), size, the_task._window, the_task._stride)
        total, count, _, _ = cross_entropies(logits, np.asarray(batch["labels"][i, :height, :width]))
        loss, pixels = loss + total, pixels + count
    np.testing.assert_allclose(sums["loss"], loss, rtol=1e-5)
    assert float(sums["pixels"]) == pixels


class Held(data.Source):
    """Photographs of several sizes, of which nothing but the labels is asked."""

    name, image_shape, target_shapes = "held", (None, None, 3), {}

    def __init__(self, labels):
        self._labels = labels

    def targets(self, index):
        return {"labels": self._labels[index]}

    def __len__(self):
        return len(self._labels)

    def __getitem__(self, index):
        raise AssertionError

    def __getitems__(self, indices):
        raise AssertionError

    def cached(self):
        return self


def test_every_photograph_counts_once_on_any_number_of_processes(rng):
    the_task = task()
    photos = [(33, 45), (37, 31), (11, 29), (44, 60), (21, 9)]
    truth = [rng.choice(np.array([0, 1, 2, 255], np.uint8), photo) for photo in photos]
    images = rng.normal(0, 1, (5, *CANVAS, 3)).astype(np.float32)
    placement = np.stack([scaled(CANVAS)(*photo).as_array() for photo in photos])
    rows = jax.tree.map(np.asarray, the_task.predict(Fixed(), jnp.asarray(images), jnp.asarray(placement)))
    source = Held(truth)
    alone, halves = scorer_of(the_task, source), [scorer_of(the_task, source) for _ in range(2)]
    for index in ([0, 1, 2, 3], [4, 0, 0, 0]):  # the last batch is filled up
        mask = np.array([True, *(index[0] == 0,) * 3])
        some = {name: values[index] for name, values in rows.items()}
        alone.add(np.array(index), mask, some, placement[index])
        for process, part in enumerate((slice(0, 2), slice(2, 4))):
            own = {name: values[part] for name, values in some.items()}
            halves[process].add(np.array(index)[part], mask[part], own, placement[index][part])
    sums = {"loss": 30.0, "pixels": 12.0}
    whole = alone.scores(sums, gathered(alone.state()))
    merged = halves[0].scores(sums, [half.state() for half in halves])
    assert whole.values == merged.values and whole.details == merged.details and whole.examples == 5
    given = [found(the_task, {n: v[i] for n, v in rows.items()}, placement[i]).labels for i in range(5)]
    counts = sum(confusion(one, other, 3) for one, other in zip(given, truth, strict=True))
    assert whole.details["confusion"] == counts.tolist() and whole.values["loss"] == 2.5
    iou = [counts[k, k] / (counts[k].sum() + counts[:, k].sum() - counts[k, k]) for k in range(3)]
    np.testing.assert_allclose(whole.values["mIoU"], np.mean(iou))
    np.testing.assert_allclose([*whole.details["IoU_per_class"].values()], iou)
    np.testing.assert_allclose(whole.values["mean_accuracy"], (np.diag(counts) / counts.sum(1)).mean())
    np.testing.assert_allclose(whole.values["pixel_accuracy"], np.trace(counts) / counts.sum())
    assert merged.drawn.index.tolist() == [0, 1, 2, 3, 4]
    assert merged.drawn.right.tolist() == [int((a == b).sum()) for a, b in zip(given, truth, strict=True)]
    assert [line.split()[-1] for line in the_task.lines(whole)] == [*NAMES]


def test_a_photograph_is_called_by_its_file(tmp_path):
    made = labelled()
    folder = write_labelled(tmp_path / "it", made, "camvid")
    source = data.load("label_folder/it", data_dir=tmp_path / "tfds", source_dir=folder).split("val")
    assert {name_of(source, index) for index in range(len(source))} == {each.name for each in made["val"]}


def test_what_is_said_about_a_photograph():
    the_task = task(about=preprocessing(class_colors=((1, 2, 3), (4, 5, 6), (7, 8, 9))))
    assert isinstance(the_task, Task)
    labels = np.array([[0, 0, 0, 2], [0, 0, 0, 0]], np.uint8)
    segmented, display = Segmented(labels), SegmentationDisplay()
    assert the_task.describe(segmented, display) == ["   87.50 %  sky", "   12.50 %  tree"]
    assert the_task.describe(segmented, SegmentationDisplay(least_part=0.2)) == ["   87.50 %  sky"]
    assert the_task.captions(segmented) == [(0, "sky\n87.5 %"), (2, "tree\n12.5 %")]
    assert the_task.values(segmented, display) == {
        "height": 2,
        "width": 4,
        "classes": [
            {"class": "sky", "label": 0, "pixels": 7, "part": 0.875},
            {"class": "tree", "label": 2, "pixels": 1, "part": 0.125},
        ],
    }
    picture = the_task.mask_picture(segmented, display)
    assert picture.mode == "P" and (np.asarray(picture) == labels).all()
    assert np.asarray(picture.convert("RGB"))[0, 3].tolist() == [7, 8, 9]
    assert the_task.title({"labels": np.array([[2, 2, 255], [255, 255, 1]], np.uint8)}) == "tree, road"


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"data": {"mixup": 0.2}}, "data.mixup"),
        ({"data": {"crop": "pad"}}, "data.crop"),
        ({"data": {"auto_augment": "rand"}}, "data.auto_augment"),
        ({"about": preprocessing(resize="center_crop")}, "data.resize"),
        ({"model": {"widths": 4}}, "no option 'widths'"),
        ({"options": {"stride": 8}}, "task.options.stride"),
        ({"options": {"window": 8, "stride": 9}}, "larger than the window"),
        ({"options": {"scales": (0.5,)}}, "1 among them"),
        ({"options": {"class_weights": (1.0, 2.0)}}, "2 numbers for 3 classes"),
    ],
)
def test_what_segmentation_does_not_have(groups, message):
    with pytest.raises(ConfigError, match=message):
        task(**groups)


@pytest.mark.parametrize(
    ("name", "message"), [("resnet18", "'resnet18'"), ("retinanet_resnet18", "retinanet_resnet18")]
)
def test_other_networks_give_no_class_to_each_pixel(name, message):
    tree = {"task": {"name": "segmentation"}, "model": {"name": name}, "data": {"crop": "none"}}
    with pytest.raises(ConfigError, match=message):
        make_task(resolve(tree), preprocessing())
