"""The model card of a hub's folder: what a network is, how it was trained, what was measured, and whom to cite."""

import html
import re
from collections.abc import Mapping
from typing import Any

import yaml

from aa_flax.inference.about import About
from aa_flax.literal import literal, told_apart
from aa_flax.tasks import make_task
from aa_flax.tasks.contract import SCORES

_PIPELINES = {
    "classification": ("image-classification", "name the class of a photograph"),
    "detection": ("object-detection", "find objects in a photograph"),
    "segmentation": ("image-segmentation", "name the class of each pixel of a photograph"),
}
"""For each task the Hub's word for it, and what it is for."""
_MOST_NAMES = 100
_SIGHTS = {
    "squash": "resized whole, whatever its aspect",
    "center_crop": "a centred part of it, resized",
    "fit": "scaled until it fits, in the upper left corner, padded",
}
_PAPERS = {
    r"(^|_)aa_|fully_attentional": (
        "bello2019attention",
        "Attention Augmented Convolutional Networks",
        "Bello, Irwan and Zoph, Barret and Vaswani, Ashish and Shlens, Jonathon and Le, Quoc V.",
        "booktitle = {IEEE/CVF International Conference on Computer Vision (ICCV)},\n  year = {2019}",
    ),
    r"(^|_)aw_": (
        "zhu2021attention",
        "An Attention Module for Convolutional Neural Networks",
        "Zhu, Baozhou and Hofstee, Peter and Lee, Jinho and Al-Ars, Zaid",
        "journal = {arXiv:2108.08205},\n  year = {2021}",
    ),
    r"patchconvnet": (
        "touvron2021augmenting",
        "Augmenting Convolutional networks with attention-based aggregation",
        "Touvron, Hugo and Cord, Matthieu and El-Nouby, Alaaeldin and Bojanowski, Piotr and Joulin, Armand and "
        r"Synnaeve, Gabriel and J{\'e}gou, Herv{\'e}",
        "journal = {arXiv:2112.13692},\n  year = {2021}",
    ),
}
"""Papers by a pattern of the names of networks that follow them."""


def model_card(
    card: Mapping[str, Any],
    about: About | None,
    for_timm: Mapping[str, Any] | None,
    *,
    license: str = "",
    intended_use: str = "",
    title: str = "",
) -> str:
    """Return a model card in Markdown, with the Hub's metadata before it.

    Args:
        card: of the weights, see `aa_flax.weights.card`.
        about: what is known of the network besides; None if nothing is.
        for_timm: what timm reads, None if it has no such network.
        license, intended_use, title: as of `aa_flax.hub.save`.
    """
    task = None if about is None else about.config.task.name
    named = title or (about.config.label if about else "") or card["model"]
    parts = [
        f"# {plain(named)}",
        _what(card, about, for_timm),
        "## Use\n\n" + _use(for_timm),
        "## How it sees a photograph\n\n" + _sight(about),
        "## How it was trained\n\n" + _training(about),
        "## What was measured\n\n" + _measured(about),
        "## Intended use and limits\n\n" + _intended(about, intended_use),
        "## Citation\n\n" + _citation(card),
    ]
    return f"---\n{_metadata(card, about, for_timm, task, license, named)}---\n\n" + "\n\n".join(parts) + "\n\n"


def plain(text: str) -> str:
    """Return text that people wrote as Markdown that shows it as it is: nothing of it is markup or HTML."""
    return re.sub(r"([\\`*_{}\[\]()#+\-.!|~$:@])", r"\\\1", html.escape(literal(text), quote=False))


def _metadata(card: Any, about: Any, for_timm: Any, task: str | None, license: str, named: str) -> str:
    values: dict[str, Any] = {"library_name": "timm" if for_timm else "aa_flax"}
    values |= {"license": license} if license else {}
    values["tags"] = ["aa_flax", "jax", "flax", *(["timm"] if for_timm else [])]
    if task:
        values["pipeline_tag"] = _PIPELINES[task][0]
    if about is not None and about.config.data.name:
        values["datasets"] = [literal(about.config.data.name)]
    if scores := _scores(about):
        metrics = [{"type": name, "value": value} for name, value in scores.items()]
        dataset = {"type": literal(about.config.data.name), "name": literal(about.config.data.name)}
        result = {"task": {"type": values["pipeline_tag"]}, "dataset": dataset, "metrics": metrics}
        values["model-index"] = [{"name": literal(named), "results": [result]}]
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _what(card: Any, about: About | None, for_timm: Any) -> str:
    height, width = card["image_size"]
    given = [f"{name}={value!r}" for name, value in sorted(card["options"].items())]
    options = ", ".join(map(plain, given)) or "its defaults"
    lines = [
        f"The network `{card['model']}` of aa_flax, attention-augmented convolutional networks in JAX and Flax, with "
        f"{options}: {card['params']:,} parameters, images of "
        f"{height}×{width} pixels and {card['in_channels']} channel{'s' * (card['in_channels'] != 1)}."
    ]
    if for_timm:
        lines.append(f"timm's `{for_timm['architecture']}` is the same network, and the weights have timm's names.")
    if about is not None:
        names = told_apart(about.preprocessing.names)
        rest = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
        lines.append(f"It knows {len(names)} classes: {', '.join(plain(each) for each in names[:_MOST_NAMES])}{rest}.")
    return "\n".join(lines)


def _use(for_timm: Any) -> str:
    lines = [
        "```python",
        "import aa_flax",
        "",
        'predictor = aa_flax.load("hf_hub:owner/name")  # this repository, or a folder with its files',
        'print(predictor("photo.jpg"))',
        'predictor("photo.jpg").draw("seen.png")',
        "```",
    ]
    if for_timm:
        lines += ["", "```python", 'timm.create_model("hf_hub:owner/name", pretrained=True)', "```"]
    return "\n".join(lines)


def _sight(about: About | None) -> str:
    if about is None:
        return "That was not recorded: names of classes, size, crop, mean and standard deviation must be given."
    seen = about.preprocessing
    height, width = seen.image_size
    crop = f", {100 * seen.crop_fraction:g} % of the sides" if seen.resize == "center_crop" else ""
    mean, std = (", ".join(f"{value:.6g}" for value in values) for values in (seen.mean, seen.std))
    return (
        f"{_SIGHTS[seen.resize].capitalize()}{crop}, to {height}×{width} ({seen.interpolation}, antialiased); pixels "
        f"in 0 to 1 minus ({mean}), divided by ({std}). `aa_flax` does all of it."
    )


def _training(about: About | None) -> str:
    if about is None or not about.config.data.name:
        return "That was not recorded with these weights."
    config, result = about.config, about.result
    optimizer = config.optimizer
    rows = [
        ("data set", plain(config.data.name)),
        ("training split", plain(config.data.train_split)),
        ("fingerprint of the data", f"`{about.preprocessing.data_fingerprint or 'unknown'}`"),
        ("epochs", result.get("epochs", config.epochs)),
        ("batch", f"{config.batch_size} images"),
        ("optimiser", f"{optimizer.name}, learning rate {optimizer.learning_rate:g}"),
        ("weight decay", f"{optimizer.weight_decay:g}"),
        ("first weights", plain(config.model.init_from.rpartition("/")[2]) if config.model.init_from else "random"),
        ("seed", config.seed),
        ("device", plain(str(result.get("device") or "unknown"))),
        ("commit of aa_flax", f"`{result.get('commit') or 'unknown'}`"),
    ]
    return (
        "| | |\n|---|---|\n"
        + "\n".join(f"| {name} | {value} |" for name, value in rows)
        + ("\n\nEvery field of its config is in `config.json`.")
    )


def _scores(about: About | None) -> dict[str, float]:
    """Return the scores on held-out data by name, the one that runs are compared by first."""
    if about is None or make_task(about.config, about.preprocessing).headline not in about.result:
        return {}
    no_scores = SCORES | {"threshold", "best_score", "best_epoch", "best_step"}
    found = {
        name: float(value)
        for name, value in about.result.items()
        if isinstance(value, int | float) and name not in no_scores and not name.startswith("raw_")
    }
    first = make_task(about.config, about.preprocessing).headline
    return {name: found[name] for name in sorted(found, key=lambda name: name != first)}


def _measured(about: About | None) -> str:
    scores = _scores(about)
    if about is None or not scores:
        return "Nothing: no held-out score was kept with these weights."
    examples, split = about.result.get("examples", "?"), plain(about.config.data.eval_split)
    rows = "\n".join(f"| {plain(name)} | {value:.4g} |" for name, value in scores.items())
    return (
        f"On the held-out split {split} of {plain(about.config.data.name)}, {examples} photographs, each scored "
        f"once:\n\n| score | value |\n|---|---|\n{rows}"
    )


def _intended(about: About | None, given: str) -> str:
    task = about.config.task.name if about is not None else ""
    use = plain(given) if given else f"To {_PIPELINES[task][1]}, of the classes above." if task else "Research."
    return (
        f"{use} It answers with these classes whatever is in sight, photographs of other things, cameras and places "
        "included; its scores hold for data such as those it was measured on. It has the faults of its training data. "
        "It has not been assessed for decisions about people."
    )


def _citation(card: Any) -> str:
    pools = card["options"].get("pooling") == "attention"
    entries = [
        f"@misc{{{key},\n  title = {{{title}}},\n  author = {{{authors}}},\n  {rest}\n}}"
        for pattern, (key, title, authors, rest) in _PAPERS.items()
        if re.search(pattern, card["model"]) or (key.startswith("touvron") and pools)
    ]
    entries.append(
        "@software{aa_flax,\n  title = {aa\\_flax: attention-augmented convolutional networks in JAX and Flax},\n"
        "  author = {{The aa\\_flax authors}}\n}"
    )
    return "```bibtex\n" + "\n\n".join(entries) + "\n```"
