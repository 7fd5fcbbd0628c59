"""What timm reads of a `config.json` on a hub, for the networks that timm has too."""

from typing import Any

from aa_flax.inference.about import About

_ARCHITECTURES = {
    **{f"resnet{depth}": f"resnet{depth}" for depth in (18, 34, 50, 101, 152)},
    **{f"se_resnet{depth}": f"seresnet{depth}" for depth in (50, 101, 152)},
    **{f"mnasnet_{width}": f"semnasnet_{width}" for width in ("075", "100", "140")},  # MnasNet-A1
}
"""From our name of a network to timm's."""
_HARMLESS = frozenset({"batch_norm_momentum", "drop_path_rate", "drop_path_rule", "dropout_rate", "zero_init_residual"})
"""Options that change nothing of what a trained network computes."""
_CROPS = {"center_crop": "center", "squash": "squash", "fit": "border"}


def timm_config(model: Any, about: About | None) -> dict[str, Any] | None:
    """Return the fields of `config.json` with which timm builds the same network; None if it has no such network.

    timm crops where this library does, to within a pixel: it resizes first. For "fit" it centres the photograph between
    borders, which here is in the upper left corner.

    Args:
        model: a network of `create_model`.
        about: what is known of it, from which timm takes names, size, mean, standard deviation and crop.
    """
    built = getattr(model, "built_from", None)
    if built is None or built.name not in _ARCHITECTURES or {name for name, _ in built.options} - _HARMLESS:
        return None
    if built.param_dtype != "float32" or not built.num_classes:
        return None
    height, width = built.image_size
    trained: dict[str, Any] = {
        "tag": "aa_flax",
        "custom_load": False,
        "input_size": [built.in_channels, height, width],
        "fixed_input_size": False,
        "num_classes": built.num_classes,
        "pool_size": [-(-height // 32), -(-width // 32)],
        "first_conv": "conv_stem" if built.name.startswith("mnasnet") else "conv1",
        "classifier": "classifier" if built.name.startswith("mnasnet") else "fc",
    }
    names: dict[str, Any] = {}
    if about is not None:
        seen = about.preprocessing
        trained |= {
            "interpolation": seen.interpolation,
            "crop_pct": seen.crop_fraction if seen.resize == "center_crop" else 1.0,
            "crop_mode": _CROPS[seen.resize],
            "mean": list(seen.mean),
            "std": list(seen.std),
        }
        names = {"label_names": list(seen.names)}
    channels = {"model_args": {"in_chans": built.in_channels}} if built.in_channels != 3 else {}
    return {
        "architecture": _ARCHITECTURES[built.name],
        "num_classes": built.num_classes,
        "global_pool": "avg",
        **names,
        **channels,
        "pretrained_cfg": trained,
    }
