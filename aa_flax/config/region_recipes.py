"""The training recipes of Faster and Mask R-CNN on COCO, as default configs with the fields set.

    coco_faster_rcnn                 Zhu et al. (2021), by the recipe of detectron2 and mmdetection, once through ("1x")
    coco_mask_rcnn                   the same with masks; three times as long is "3x"
    coco_mask_rcnn_patchconvnet      Touvron et al. (2021), by the recipe of the same group's XCiT

Neither paper's code for detection was published, and the text of neither was available: these are the recipes of what
they compare with. RetinaNet's are in `detection_recipes`.

All have square canvases into which each photograph just fits, in its aspect. A photograph of 4:3, as most of COCO are,
has a shorter side of three quarters of the canvas: 816 on the largest, 1088×1088, on which held-out photographs are
seen. In those libraries the shorter side is 800, the longer one at most 1333, and each batch has a canvas of its own.
The canvases of training follow the shorter sides that the recipes draw from; a step has one.
"""

from typing import Any, Literal

from aa_flax.config.schema import default_config

CANVAS = (1088, 1088)
_SIDES = {"640-800": (864, 928, 992, 1024, 1088), "480-800": (640, 768, 896, 1024, 1088)}
"""Sides of canvases, multiples of 32, by the shorter sides of the recipe: three quarters are 648 to 816, 480 to 816."""
_NORMS = ("bn", "bn1", "bn2", "bn3", "shortcut_bn")
"""The batch norms of a ResNet, and of the gates of AW-convolution."""


def coco_faster_rcnn(weights: str, source: str = "aa_flax") -> Any:
    """Return the config for a Faster R-CNN with a ResNet and a feature pyramid on COCO, from a backbone of ImageNet.

    It has 12 epochs of momentum SGD in batches of 16, learning rate 0.02 after 1000 steps of warm-up from a thousandth
    of it, ÷10 at epochs 8 and 11, weight decay 1e-4; flips, and shorter sides of 640 to 800. The network is that of
    detectron2 (flavor "detectron2"): stem, first stage and all batch norms of the backbone keep what they have of
    ImageNet. detectron2 counts 90,000 steps, with drops at 60,000 and 80,000, where these are 88,704.

    Unlike detectron2: the canvases (above), of which a step has one of five sizes, and two samples a bin of RoIAlign
    along each side where it takes as many as fit (`sampling_ratio`); the network computes in bfloat16.

    Args:
        weights: the file of the backbone's weights, `config.model.init_from`.
        source: the library whose names that file uses, `config.model.init_source`.
    """
    config = _coco(weights, source, "640-800")
    config.data.name = "coco/2017"
    config.data.eval_split = "validation"
    config.epochs = 12
    config.optimizer.name = "sgd"
    config.optimizer.momentum = 0.9
    config.optimizer.learning_rate = 0.02
    config.optimizer.decay_at_epochs = (8.0, 11.0)
    config.optimizer.warmup_steps = 1000
    config.optimizer.warmup_start = 1e-3
    config.optimizer.weight_decay = 1e-4
    config.optimizer.weight_decay_mode = "l2"
    config.optimizer.weight_decay_exclude = (
        *(f"{norm}.{parameter}" for norm in _NORMS for parameter in ("scale", "bias")),
        "rel_height",
        "rel_width",
        "gate_scale",
    )
    return config


def coco_mask_rcnn(weights: str, source: str = "aa_flax", schedule: Literal["1x", "3x"] = "1x") -> Any:
    """Return the config for a Mask R-CNN with a ResNet and a feature pyramid on COCO, from a backbone of ImageNet.

    It is `coco_faster_rcnn` with masks, which COCO's own annotations have and the TFDS catalogue's copy does not. "3x"
    is 36 epochs with drops at 28 and 33: 266,112 steps, where detectron2 has 270,000, and drops at 210,000 and 250,000.
    """
    if schedule not in ("1x", "3x"):
        raise ValueError(f"schedule must be '1x' or '3x', got {schedule!r}")
    config = coco_faster_rcnn(weights, source)
    _with_masks(config)
    if schedule == "3x":
        config.epochs = 36
        config.optimizer.decay_at_epochs = (28.0, 33.0)
    return config


def coco_mask_rcnn_patchconvnet(weights: str, source: str = "aa_flax") -> Any:
    """Return the config for a Mask R-CNN with a PatchConvNet on COCO, from a backbone of ImageNet.

    It has 36 epochs of AdamW in batches of 16, learning rate 1e-4 after 500 steps of warm-up from a thousandth of it,
    ÷10 at epochs 27 and 33, weight decay 0.05, stochastic depth of 0.05; flips, and shorter sides of 480 to 800. Loss
    and boxes are mmdetection's, which XCiT uses: those of flavor "detectron2", but the proposals' loss is the mean over
    the anchors that were drawn. Nothing is frozen.

    Unlike XCiT's: the canvases (above), of which a step has one of five sizes; no second way of resizing (400 to 600,
    then a crop of 384 to 600); two samples a bin of RoIAlign along each side; biases, layer scales and the token do not
    decay either, as norms do not.

    Args:
        weights: the file of the backbone's weights, `config.model.init_from`.
        source: the library whose names that file uses, `config.model.init_source`.
    """
    config = _coco(weights, source, "480-800")
    _with_masks(config)
    config.model.options.update(rpn_normalizer="samples", drop_path_rate=0.05)
    config.epochs = 36
    config.optimizer.name = "adamw"
    config.optimizer.adam_epsilon = 1e-8
    config.optimizer.learning_rate = 1e-4
    config.optimizer.decay_at_epochs = (27.0, 33.0)
    config.optimizer.warmup_steps = 500
    config.optimizer.warmup_start = 1e-3
    config.optimizer.weight_decay = 0.05
    config.optimizer.weight_decay_mode = "decoupled"
    return config


def _coco(weights: str, source: str, sides: str) -> Any:
    """Return what the recipes share."""
    config = default_config()
    config.batch_size = 16
    config.eval_batch_size = 16
    config.log_every_steps = 100
    config.model.dtype = "bfloat16"
    config.model.options = dict(flavor="detectron2")
    config.model.init_from = weights
    config.model.init_source = source
    config.model.init_part = "backbone"
    config.task.name = "detection"
    config.data.train_split = "train"
    config.data.image_size = CANVAS
    config.data.train_sizes = tuple((side, side) for side in _SIDES[sides])
    config.data.crop = "scaled"
    config.data.scale_range = (1.0, 1.0)
    config.data.flip = True
    config.data.num_threads = 16
    config.optimizer.schedule = "steps"
    config.optimizer.decay_factor = 0.1
    config.optimizer.warmup = 0.0
    return config


def _with_masks(config: Any) -> None:
    """Read COCO's own annotations, of which masks are made."""
    config.data.name = "coco_json/coco2017"
    config.data.eval_split = "val"
