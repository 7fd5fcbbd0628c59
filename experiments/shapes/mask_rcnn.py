"""A small Mask R-CNN that learns shapes in photographs by heart: a proof that masks are learnt, on two CPU cores.

    python -m experiments.shapes.make_shapes --source_dir=COCO --out=shapes
    python -m aa_flax.train --config=experiments/shapes/mask_rcnn.py --workdir=runs/shapes \\
        --config.data.source_dir=shapes

`make_shapes.py` says what the data are: 32 images of 160×128 with about a hundred shapes of five classes. The images
that are learnt are scored too, so that the score says whether network, targets, losses and pasting fit together, and
nothing of other images; --config.data.eval_split=val is of those.

Ours: mask AP 0.893, AP of boxes 0.991, in 335 s (experiments/results/shapes.json).
"""

from aa_flax.training import default_config


def get_config():
    config = default_config()
    config.label = "Mask R-CNN, ResNet-18, shapes"
    config.batch_size = 8
    config.eval_batch_size = 8
    config.epochs = 120
    config.eval_every_epochs = 30
    config.log_every_steps = 4
    config.task.name = "detection"
    config.task.options.most_objects = 8
    config.data.name = "coco_json/shapes"
    config.data.eval_split = "train"
    config.data.allow_overlap = True
    config.data.image_size = (128, 160)
    config.data.crop = "none"
    config.data.flip = True
    config.data.cache = True
    config.model.name = "mask_rcnn_resnet18"
    learning = dict(frozen_norms=False, frozen_stages=0, batch_norm_epsilon=1e-5, fpn_norm=True)
    heads = dict(fpn_width=48, rpn_width=48, box_head_width=128, mask_head_width=48, mask_head_depth=2, anchor_size=4.0)
    proposals = dict(proposals=100, proposals_in_training=100)
    proposals |= dict(proposals_per_level=100, proposals_per_level_in_training=100)
    config.model.options = dict(
        width=32, **learning, **heads, **proposals, rpn_samples=128, box_samples=64, aligned=True, max_detections=20
    )
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 2e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup = 0.1
    config.optimizer.weight_decay = 0.0
    config.optimizer.clip_norm = 10.0
    return config
