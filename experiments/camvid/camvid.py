"""A small UPerNet on CamVid at 240×180: 367 training, 101 validation and 233 test photographs of streets, 11 classes.

    cp experiments/camvid/classes.txt FOLDER
    python -m aa_flax.train --config=experiments/camvid/camvid.py --workdir=runs/camvid --config.data.source_dir=FOLDER

FOLDER holds `train`, `trainannot`, `val`, `valannot`, `test` and `testannot`, photographs and label maps, as the
authors of SegNet have arranged CamVid (for research); it is needed once, and so is the file of its classes. The
argument after the colon is `plain` (the default), `aa` or `patchconvnet`. The test photographs are scored; nothing is
chosen by them.

3,508,534 parameters (plain), 3,450,870 (aa) and 2,139,742 (patchconvnet), with the auxiliary head; 1.98 GFLOPs each.

Ours, two cores of a CPU, mIoU in the mean of three seeds: 48.2 % (plain, 26 minutes each), 46.6 % (aa, 27) and 45.0 %
(patchconvnet, 34 and 43). See experiments/results/README.md, "Streets".
"""

from typing import Any

from aa_flax.training import default_config

MODELS = ("plain", "aa", "patchconvnet")


def get_config(network: str = "plain") -> Any:
    """Return the config of a network: `plain`, a ResNet of basic blocks; `aa`, with attention; or `patchconvnet`."""
    if network not in MODELS:
        raise ValueError(f"camvid.py knows {', '.join(MODELS)}, not {network!r}")
    config = default_config()
    config.epochs = 60
    config.batch_size = 8
    config.eval_batch_size = 8
    config.eval_every_epochs = 30
    config.log_every_steps = 15
    head = dict(head_width=64, auxiliary_width=64, batch_norm_momentum=0.9)
    if network == "patchconvnet":
        config.label = "UPerNet, PatchConvNet"
        config.model.name = "upernet_patchconvnet_s60"
        config.model.options = dict(width=192, depth=8, rematerialize=False, **head)
    else:
        prefix = "aa_" if network == "aa" else ""
        config.label = f"UPerNet, {'AA-' if prefix else ''}ResNet-18"
        config.model.name = f"upernet_{prefix}resnet18"
        config.model.options = dict(width=32, **head)
        if network == "aa":
            config.model.options.update(kappa=0.25, upsilon=0.125, num_heads=2, min_key_depth_per_head=8)
    config.task.name = "segmentation"
    config.data.name = "label_folder/camvid"
    config.data.eval_split = "test"
    # PatchConvNet needs sides that 16 divides, and gets twelve rows of padding.
    config.data.image_size = (192, 240) if network == "patchconvnet" else (180, 240)
    config.data.crop = "scaled"
    config.data.scale_range = (1.0, 1.6)
    config.data.flip = True
    config.data.cache = True
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 3e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup = 0.1
    config.optimizer.weight_decay = 0.05
    config.optimizer.weight_decay_mode = "decoupled"
    config.optimizer.clip_norm = 1.0
    return config
