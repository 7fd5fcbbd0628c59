"""UPerNet with ResNet-50 on ADE20k, as mmsegmentation has it: a check of this library, no row of a paper.

    python -m aa_flax.train --config=experiments/ade20k/upernet_resnet50.py --workdir=runs/upernet_resnet50

ADE20k is prepared once from the folder of its archive (ADEChallengeData2016): `python -m aa_flax.data prepare
label_folder/ade20k --source_dir=FOLDER`. The recipe is for 8 chips or cards with 2 photographs each; it computes the
same on any number of devices that divides 16, if they hold them.

The backbone's weights are those of `experiments/imagenet/resnet50.py`, exported: `python -m aa_flax.checkpoints export
--workdir=runs/resnet50 runs/resnet50.safetensors`. Those of torchvision's ResNets do as well, with
`--config.model.init_from=FILE --config.model.init_source=torchvision`.

160,401 steps of momentum SGD, see `ade20k_resnet` in `aa_flax/config/segmentation_recipes.py`.

The paper: nothing. mmsegmentation's own has a stem of three convolutions and 66.5 M parameters.

Not said: nothing of mmsegmentation's recipe. Ours are the canvas of evaluation (1024×1024) and the stem, 7×7.

Ours: not run yet. 66.497 M parameters, with the auxiliary head.
"""

from aa_flax.config import segmentation_recipes


def get_config():
    config = segmentation_recipes.ade20k_resnet("runs/resnet50.safetensors")
    config.label = "UPerNet, ResNet-50"
    config.model.name = "upernet_resnet50"
    return config
