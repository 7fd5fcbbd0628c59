"""Mask R-CNN with ResNet-50-FPN on COCO, as detectron2 has it: a check of this library, no row of a paper.

    python -m aa_flax.train --config=experiments/coco/mask_rcnn_resnet50.py --workdir=runs/mask_rcnn_resnet50

`--config=experiments/coco/mask_rcnn_resnet50.py:3x` trains three times as long.

COCO is prepared once from its own files, the folders `annotations`, `train2017` and `val2017` of FOLDER: `python -m
aa_flax.data prepare coco_json/coco2017 --source_dir=FOLDER`; the TFDS catalogue's copy has no masks. The recipe is for
8 chips or cards with 2 photographs each; it computes the same on any number of devices that divides 16, if they hold
them.

The backbone's weights are those of `experiments/imagenet/resnet50.py`, exported: `python -m aa_flax.checkpoints export
--workdir=runs/resnet50 runs/resnet50.safetensors`. Those of torchvision's ResNets do as well, with
`--config.model.init_from=FILE --config.model.init_source=torchvision`.

See `coco_mask_rcnn` in `aa_flax/config/region_recipes.py`.

The paper: nothing. detectron2 prints 38.6 AP of boxes and 35.2 of masks for "1x", 41.0 and 37.2 for "3x".

Not said: nothing of detectron2's recipe. Ours are the canvases and their five sizes, two samples a bin of RoIAlign.

Ours: not run yet. 44.396 M parameters.
"""

from aa_flax.config import region_recipes


def get_config(schedule="1x"):
    if schedule not in ("1x", "3x"):
        raise ValueError(f"mask_rcnn_resnet50.py knows 1x and 3x, not {schedule!r}")
    config = region_recipes.coco_mask_rcnn("runs/resnet50.safetensors", schedule=schedule)
    config.label = f"Mask R-CNN, ResNet-50, {schedule}"
    config.model.name = "mask_rcnn_resnet50"
    return config
