"""UPerNet with PatchConvNet-B60 on ADE20k: Touvron et al. (2021), by the recipe of XCiT.

    python -m aa_flax.train --config=experiments/ade20k/upernet_patchconvnet_b60.py --workdir=runs/upernet_b60

ADE20k is prepared once from the folder of its archive (ADEChallengeData2016): `python -m aa_flax.data prepare
label_folder/ade20k --source_dir=FOLDER`. The recipe is for 8 chips or cards with 2 photographs each; it computes the
same on any number of devices that divides 16, if they hold them.

The backbone's weights are those of `experiments/patchconvnet/b60.py`, exported: `python -m aa_flax.checkpoints export
--workdir=runs/patchconvnet/b60 runs/patchconvnet_b60.safetensors`. The weights that the authors published do as well,
with `--config.model.init_from=FILE --config.model.init_source=deit`.

The maps after each quarter of the blocks, at stride 16, are brought to strides 4, 8, 16 and 32. 160,401 steps of AdamW,
see `ade20k_patchconvnet` in `aa_flax/config/segmentation_recipes.py`.

The paper: 51.1 % mIoU, by a leaderboard's copy, which does not say whether one scale or several were seen, nor of which
pretraining (ImageNet-21k, it seems, at least for the larger networks). Code for its rows on ADE20k was never published,
and the text was not available.

Not said: everything else; that the recipe is XCiT's is an assumption. Ours are the blocks whose maps are taken,
stochastic depth (0.05), the canvas of evaluation (1024×1024). `--config.task.options.scales=0.5,0.75,1,1.25,1.5,1.75
--config.task.options.flip=true` scores at several scales.

Ours: not run yet. 133.932 M parameters, with the auxiliary head.
"""

from aa_flax.config import segmentation_recipes


def get_config():
    config = segmentation_recipes.ade20k_patchconvnet("upernet", "runs/patchconvnet_b60.safetensors")
    config.label = "UPerNet, PatchConvNet-B60"
    config.model.name = "upernet_patchconvnet_b60"
    return config
