"""Mask R-CNN with PatchConvNet-S60 on COCO: Touvron et al. (2021), by the recipe of XCiT.

    python -m aa_flax.train --config=experiments/coco/mask_rcnn_patchconvnet_s60.py --workdir=runs/mask_rcnn_s60

COCO is prepared once from its own files, the folders `annotations`, `train2017` and `val2017` of FOLDER: `python -m
aa_flax.data prepare coco_json/coco2017 --source_dir=FOLDER`; the TFDS catalogue's copy has no masks. The recipe is for
8 chips or cards with 2 photographs each; it computes the same on any number of devices that divides 16, if they hold
them.

The backbone's weights are those of `experiments/patchconvnet/s60.py`, exported: `python -m aa_flax.checkpoints export
--workdir=runs/patchconvnet/s60 runs/patchconvnet_s60.safetensors`. The weights that the authors published do as well,
with `--config.model.init_from=FILE --config.model.init_source=deit`.

The maps after each quarter of the blocks, at stride 16, are brought to strides 4, 8, 16 and 32 for the feature pyramid.
36 epochs of AdamW, see `coco_mask_rcnn_patchconvnet` in `aa_flax/config/region_recipes.py`.

The paper: reports Mask R-CNN; its numbers were not found. Of the same group's XCiT at stride 16 are 45.3 AP of boxes
and 40.8 of masks for S12, 46.5 and 41.8 for S24, 46.7 and 42.0 for M24. Code for its rows on COCO was never published,
and the text was not available.

Not said: everything; that the recipe is XCiT's is an assumption. Ours are the blocks whose maps are taken, stochastic
depth (0.05), the canvases and their five sizes, two samples a bin of RoIAlign.

Ours: not run yet. 45.435 M parameters.
"""

from aa_flax.config import region_recipes


def get_config():
    config = region_recipes.coco_mask_rcnn_patchconvnet("runs/patchconvnet_s60.safetensors")
    config.label = "Mask R-CNN, PatchConvNet-S60"
    config.model.name = "mask_rcnn_patchconvnet_s60"
    return config
