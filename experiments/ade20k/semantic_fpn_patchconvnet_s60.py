"""Semantic FPN with PatchConvNet-S60 on ADE20k, by the recipe of XCiT; no row of the paper is known.

    python -m aa_flax.train --config=experiments/ade20k/semantic_fpn_patchconvnet_s60.py --workdir=runs/semantic_fpn_s60

ADE20k is prepared once from the folder of its archive (ADEChallengeData2016): `python -m aa_flax.data prepare
label_folder/ade20k --source_dir=FOLDER`. The recipe is for 8 chips or cards with 2 photographs each; it computes the
same on any number of devices that divides 16, if they hold them.

The backbone's weights are those of `experiments/patchconvnet/s60.py`, exported: `python -m aa_flax.checkpoints export
--workdir=runs/patchconvnet/s60 runs/patchconvnet_s60.safetensors`. The weights that the authors published do as well,
with `--config.model.init_from=FILE --config.model.init_source=deit`.

The maps after each quarter of the blocks, at stride 16, are brought to strides 4, 8, 16 and 32. 80,832 steps of AdamW,
see `ade20k_patchconvnet` in `aa_flax/config/segmentation_recipes.py`.

The paper: no number was found. XCiT-S12 at stride 16 has 43.9 % mIoU with this head. Code for segmentation was never
published, and the text was not available.

Not said: everything; the recipe is XCiT's. Ours are the blocks whose maps are taken, stochastic depth (0.05), the
canvas of evaluation (1024×1024).

Ours: not run yet. 29.534 M parameters.
"""

from aa_flax.config import segmentation_recipes


def get_config():
    config = segmentation_recipes.ade20k_patchconvnet("semantic_fpn", "runs/patchconvnet_s60.safetensors")
    config.label = "Semantic FPN, PatchConvNet-S60"
    config.model.name = "semantic_fpn_patchconvnet_s60"
    return config
