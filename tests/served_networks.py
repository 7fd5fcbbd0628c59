"""Networks to export: small ones, and those of the papers at small sizes, with weights that leave nothing at zero."""

import unittest.mock

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
from flax import nnx

import aa_flax
from aa_flax.inference import Predictor
from aa_flax.inference.export import exporting
from aa_flax.inference.export.comparison import Comparison

SEEN = dict(mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3), interpolation="bilinear")
THIN = dict(width=8, blocks=(1, 1, 1, 1))
TINY_WIDE = dict(depth=10, widen_factor=1, attention_stages=(3,), num_heads=2, kappa=0.5, upsilon=0.25)
TINY_RETINANET = dict(
    width=4, blocks=(1, 1, 1, 1), fpn_width=8, head_width=8, head_depth=1, min_level=3, max_level=5, max_detections=30
)
SMALL = {
    "aa_wide": ("aa_wide_resnet28_10", (8, 12), 5, "squash", dict(TINY_WIDE, min_key_depth_per_head=3)),
    "aa_resnet": ("aa_resnet50", (32, 48), 5, "squash", dict(width=16, blocks=(1,) * 4, num_heads=2, upsilon=0.25)),
    "aw_resnet": ("aw_resnet18", (32, 40), 5, "squash", THIN),
    "ge_resnet": ("ge_resnet50", (32, 48), 5, "squash", THIN),
    "mnasnet": ("aa_mnasnet_075", (32, 48), 5, "squash", {}),
    "patchconvnet": ("patchconvnet_s60", (32, 48), 5, "squash", dict(depth=2, width=32)),
    "retinanet": ("retinanet_resnet18", (48, 64), 3, "fit", TINY_RETINANET),
    "faster_rcnn": ("faster_rcnn_resnet18", (64, 96), 3, "fit", dict(THIN, fpn_width=8, proposals=40)),
    "mask_rcnn": ("mask_rcnn_resnet18", (64, 96), 3, "squash", dict(THIN, fpn_width=8, proposals=40)),
    "semantic_fpn": ("semantic_fpn_resnet18", (32, 48), 3, "fit", THIN),
    "upernet": ("upernet_resnet18", (32, 48), 3, "squash", THIN),
}
"""From a name here to the network's, its size, classes, how photographs are seen, and options."""
OF_THE_PAPERS = {
    "aa_resnet50": ("aa_resnet50", (64, 64), 10, "squash", {}),
    "aa_wide_resnet28_10": ("aa_wide_resnet28_10", (16, 16), 10, "squash", {}),
    "aa_mnasnet": ("aa_mnasnet_100", (64, 64), 10, "squash", {}),
    "patchconvnet_s60": ("patchconvnet_s60", (64, 64), 10, "squash", {}),
    "retinanet_aa_resnet50": ("retinanet_aa_resnet50", (64, 64), 10, "squash", {}),
}


ASKED = {
    "logits": lambda model, images, sizes: {"logits": model(images)},
    "probabilities": lambda model, images, sizes: {"probabilities": jax.nn.softmax(model(images))},
    "detections": lambda model, images, sizes: as_objects(model, model.detect(images, sizes=sizes)),
    "candidates": lambda model, images, sizes: of_anchors(model, images, sizes),
    "labels": lambda model, images, sizes: {"labels": model.segment(images)},
}
"""What a network says, by the form of a program's outputs."""


def of_anchors(model, images, sizes):
    """Return the scores and boxes of a RetinaNet's anchors, by the formulas of Faster R-CNN."""
    found, anchors = model(images), model.anchors(*images.shape[1:3])
    side, middle = anchors[:, 2:] - anchors[:, :2], (anchors[:, 2:] + anchors[:, :2]) / 2
    middle = middle[None] + found["boxes"][..., :2] * side[None]
    side = side[None] * jnp.exp(jnp.minimum(found["boxes"][..., 2:], model.options.max_log_side or jnp.inf))
    boxes = jnp.concatenate([middle - side / 2, middle + side / 2], -1)
    if model.options.clip:
        boxes = jnp.clip(boxes, 0, jnp.concatenate([sizes, sizes], -1)[:, None, ::-1])
    return {"scores": 1 / (1 + jnp.exp(-found["classes"])), "boxes": boxes}


def as_objects(model, found):
    """Return detections as a program has them."""
    objects = {name: each for name, each in found._asdict().items() if each is not None}
    classes = jnp.where(found.valid, found.classes - model.options.unused_columns, -1)
    return {**objects, "scores": jnp.where(found.valid, found.scores, 0), "classes": classes}


def trained(name, size, classes, resize, options):
    """Return the predictor of a network whose weights are as those of a trained one: none is 0 or 1."""
    model = aa_flax.create_model(name, num_classes=classes, image_size=size, rngs=nnx.Rngs(0), **options)
    rng = np.random.default_rng(7)

    def drawn(path, leaf):
        value = leaf.get_value()
        if str(path[-1]) == "var":
            return leaf.replace(jnp.asarray(rng.uniform(0.5, 2, value.shape), value.dtype))
        if value.ndim > 1 and float(jnp.std(value)):
            return leaf
        wide = 0.2 if value.ndim < 2 else value.shape[-2] ** -0.5
        return leaf.replace(value + jnp.asarray(rng.normal(0, wide, value.shape), value.dtype))

    flat = nnx.to_flat_state(nnx.state(model, (nnx.Param, nnx.BatchStat)))
    nnx.update(model, nnx.from_flat_state([(path, drawn(path, leaf)) for path, leaf in flat]))
    unused = getattr(getattr(model, "options", None), "unused_columns", 0)
    return Predictor.of(model, names=[f"class {number}" for number in range(classes - unused)], resize=resize, **SEEN)


def outputs(predictor, ask):
    """Return the function from a program's inputs to what a network says of them, images normalised here.

    Args:
        predictor: of the network.
        ask: is called with the network, normalised images and their sizes.
    """
    mean, std = (np.asarray(SEEN[name]) for name in ("mean", "std"))
    run = jax.jit(lambda images, sizes: ask(predictor.model, images, sizes))

    def call(images, sizes=None):
        if sizes is None:
            sizes = np.full((len(images), 2), images.shape[1:3], np.float32)
        if images.dtype == np.uint8:
            images = ((images / 255 - mean) / std).astype(np.float32)
            for image, (rows, columns) in zip(images, sizes.astype(int), strict=True):
                image[rows:], image[:, columns:] = 0, 0
        return jax.device_get(run(images, sizes))

    return call


def inputs(card, batch, seed=3):
    """Return random inputs of a program, as its card describes them."""
    rng, arrays = np.random.default_rng(seed), []
    for given in card["inputs"]:
        shape = (batch, *given["shape"][1:])
        if given["name"] == "sizes":
            height, width = card["preprocessing"]["image_size"]
            whole = [[height, width], [height // 2, width], [height, width - 5]]
            arrays.append(np.asarray([whole[number % 3] for number in range(batch)], np.float32))
        elif given["dtype"] == "uint8":
            arrays.append(rng.integers(0, 256, shape, np.uint8))
        else:
            arrays.append(rng.normal(size=shape).astype(np.float32))
    return arrays


def close(found, expected):
    """Assert that arrays by name are equal to 1e-5 of the largest number of each."""
    assert found.keys() == expected.keys()
    for name, each in expected.items():
        each, other = np.asarray(each), np.asarray(found[name])
        if each.dtype.kind in "bi":
            np.testing.assert_array_equal(other, each, err_msg=name)
        else:
            np.testing.assert_allclose(other, each, rtol=0, atol=1e-5 * np.abs(each).max(), err_msg=name)


def run(file):
    """Return the function in a file, as programs without this library call it."""
    if file.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(file.read_bytes(), providers=["CPUExecutionProvider"])
        names = [each.name for each in session.get_inputs()]
        given = [each.name for each in session.get_outputs()]
        return lambda *arrays: dict(zip(given, session.run(given, dict(zip(names, arrays, strict=True))), strict=True))
    return jax.export.deserialize(bytearray(file.read_bytes())).call


def one_file_serves_all(predictor, file, form="logits", rows=(1, 5), **wanted):
    """Assert that one file gives what the network gives, for each number of images, and return its card.

    The export's own comparison, which compiles as much again, is left out.
    """
    with unittest.mock.patch.multiple(
        exporting, comparison=lambda *_: Comparison("none", False), on_platforms=lambda *_: []
    ):
        card = predictor.export(file, outputs=form, **wanted)
    arrays = inputs(card, max(rows))
    expected, program = outputs(predictor, ASKED[form])(*arrays), run(file)
    assert expected.get("valid", np.ones(1)).any()
    for number in rows:
        given = [array[:number] for array in arrays]
        found = program(*given) if file.suffix == ".onnx" else compiled(program, given)(*given)
        close(found, {name: each[:number] for name, each in expected.items()})
    return card


def compiled(call, arrays):
    """Return a program of StableHLO, compiled.

    The older way to generate code, which the tests take for speed where there is one, is endless for loops in programs
    with a free batch.
    """
    older = tuple(map(int, jaxlib.__version__.split(".")[:2])) < (0, 11)
    options = {"xla_cpu_use_fusion_emitters": True} if older else {}
    return jax.jit(call).lower(*arrays).compile(compiler_options=options)
