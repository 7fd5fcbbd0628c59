"""RetinaNet on COCO from a backbone trained on ImageNet, which no row of Bello et al. (2019) is.

    python -m aa_flax.checkpoints export --workdir=runs/aa_resnet50 runs/aa_resnet50.safetensors
    python -m aa_flax.train --config=experiments/coco/from_backbone.py:aa_resnet50 --workdir=runs/coco_from_aa_resnet50

The argument after the colon is the backbone: `resnet`, `se_resnet` or `aa_resnet`, and `50` or `101`. Its weights are
those of the config of that name in `experiments/imagenet/`, exported to `runs/NAME.safetensors`; those of torchvision's
ResNets do as well, with `--config.model.init_from=FILE --config.model.init_source=torchvision`. COCO comes once from
the TFDS catalogue: `python -m aa_flax.data prepare coco/2017`.

28 epochs, drops at 16 and 22; otherwise `coco_retinanet` in `aa_flax/config/detection_recipes.py`. The numbers are
those of DropBlock's ResNet-50 from ImageNet by a second-hand account.

The paper: nothing. Bello et al. train from scratch alone.

Not said: everything but these numbers.

Ours: not run yet.
"""

from aa_flax.config import detection_recipes

BACKBONES = [f"{module}resnet{depth}" for module in ("", "se_", "aa_") for depth in (50, 101)]


def get_config(backbone="aa_resnet50"):
    if backbone not in BACKBONES:
        raise ValueError(f"from_backbone.py knows {', '.join(BACKBONES)}, not {backbone!r}")
    config = detection_recipes.coco_retinanet_from_backbone(f"runs/{backbone}.safetensors")
    config.label = f"RetinaNet, {backbone} of ImageNet"
    config.model.name = f"retinanet_{backbone}"
    config.model.options.pool_padding = "symmetric"
    return config
