"""Tests of `aa_flax.hub`: folders, what timm reads, and repositories."""

import dataclasses
import importlib.util
import json
import pickle
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from flax import nnx
from safetensors.numpy import load_file

import aa_flax
from aa_flax import hub
from aa_flax.inference.model_card import plain
from aa_flax.inference.sources import opened
from aa_flax.inference.timm_config import timm_config
from aa_flax.runs.directory import RunDirectory
from aa_flax.weights import WeightsError, read_state_dict
from aa_flax.weights.arrays import flat_arrays

PHOTO = np.random.default_rng(5).integers(0, 256, (19, 27), np.uint8)


@pytest.fixture(scope="module")
def classify(straight):
    return aa_flax.load(straight)


@pytest.fixture(scope="module")
def saved(classify, tmp_path_factory):
    return hub.save(classify, tmp_path_factory.mktemp("hub") / "mine", license="apache-2.0")


@pytest.fixture
def folder(saved, tmp_path):
    """Return a copy of the folder that a test may change."""
    return shutil.copytree(saved, tmp_path / "copy")


def test_a_folder_says_what_the_run_says_bit_for_bit(classify, saved, folder):
    assert {path.name for path in saved.iterdir()} == {"config.json", "model.safetensors", "README.md"}
    again = aa_flax.load(folder)
    assert again.about.preprocessing == classify.about.preprocessing and again.display == classify.display
    assert again.step == classify.step == 8
    np.testing.assert_array_equal(again(PHOTO).probabilities, classify(PHOTO).probabilities)
    (folder / "config.json").unlink()  # the header of the weights has it all
    alone = opened(shutil.move(folder / "model.safetensors", folder / "renamed.safetensors"))
    assert alone.about == again.about


def test_what_travels(classify, saved, straight):
    card = json.loads((saved / "config.json").read_text())["aa_flax"]
    trained, seen = card["trained"], classify.preprocessing
    assert trained["task"] == "classification" and trained["dataset"] == "fashion_mnist_subset"
    assert trained["preprocessing"]["class_names"] == list(seen.class_names)
    assert trained["preprocessing"]["mean"] == list(seen.mean) and trained["preprocessing"]["resize"] == "squash"
    config = trained["config"]
    assert config["optimizer"]["learning_rate"] == 0.05 and config["data"]["data_dir"] == ""
    assert RunDirectory(straight).read_config().data.data_dir not in (saved / "config.json").read_text()
    assert card["origin"]["names"] == list(seen.class_names) and card["origin"]["step"] == 8


def test_it_is_saved_again_over_itself_and_over_nothing_else(classify, folder, tmp_path):
    before = (folder / "model.safetensors").read_bytes()
    hub.save(classify, folder)
    assert (folder / "model.safetensors").read_bytes() == before
    card = folder / "README.md"
    card.write_text(card.read_text().replace("To name", "Never to name"))
    with pytest.raises(WeightsError, match=r"README.md: was written or changed by hand"):
        hub.save(classify, folder)
    card.unlink()
    (folder / "config.json").unlink()
    (folder / "model.json").touch()
    with pytest.raises(WeightsError, match=r"has model.safetensors that aa_flax.hub.save did not write"):
        hub.save(classify, folder)  # weights that were saved alone
    (folder / "model.json").unlink()
    hub.save(classify, folder)  # as after one that was interrupted
    assert aa_flax.load(folder).step == 8
    (folder / "config.json").write_text("{")
    with pytest.raises(WeightsError, match=r"config.json: the card of model.safetensors is missing or damaged"):
        aa_flax.load(folder)
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text('{"architecture": "vit"}')
    with pytest.raises(WeightsError, match=r"has config.json that aa_flax.hub.save did not write"):
        hub.save(classify, other)
    assert [path.name for path in other.iterdir()] == ["config.json"]
    (other / "config.json").unlink()
    (other / "model.safetensors").symlink_to(folder / "model.safetensors")
    with pytest.raises(WeightsError, match="is no file of its own"):
        hub.save(classify, other)


@pytest.mark.thorough
def test_a_network_alone_does_not_say_how_it_sees(classify, tmp_path):
    folder = hub.save(classify.model, tmp_path / "alone")
    assert "That was not recorded" in (folder / "README.md").read_text()
    with pytest.raises(WeightsError, match="missing: names, mean, std, resize, interpolation"):
        aa_flax.load(folder)
    seen = classify.preprocessing
    how = dict(names=seen.names, mean=seen.mean, std=seen.std, resize="squash", interpolation="bilinear")
    again = hub.load(folder, **how)
    np.testing.assert_array_equal(again(PHOTO).probabilities, classify(PHOTO).probabilities)


def front_matter(folder):
    _, metadata, text = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(metadata), text


def test_the_card_tells_what_people_ask(saved):
    metadata, text = front_matter(saved)
    assert metadata["pipeline_tag"] == "image-classification" and metadata["license"] == "apache-2.0"
    assert metadata["library_name"] == "aa_flax" and metadata["datasets"] == ["fashion_mnist_subset"]
    for heading in ("Use", "How it was trained", "What was measured", "Intended use and limits", "Citation"):
        assert f"\n## {heading}\n" in text
    assert "Ankle boot" in text and "75,002 parameters" in text and "@software{aa_flax" in text
    assert "no held-out score was kept" in text  # that run was not one of the command


ODD = (
    "<img src=x onerror=alert(1)>",
    "[a](javascript:b)",
    "`x` *y*",
    "| cell |",
    "two\nlines",
    "---",
    "# no",
    "\x1b[1m",
)


def test_names_are_shown_and_are_never_markup(classify, tmp_path):
    about = classify.about
    seen = dataclasses.replace(about.preprocessing, class_names=(*ODD, "8", "9"))
    named = type(classify)(classify.model, dataclasses.replace(about, preprocessing=seen))
    said = named.task.result(classify(PHOTO).prediction, named.task.display(top=10), lambda: PHOTO[..., None])
    shown = said._repr_html_()
    assert "<img src=x" not in shown and "&lt;img src=x onerror" in shown and "\x1b" not in shown
    assert {*said.names[:8]} == {*ODD} and "\n" not in repr(said)
    folder = hub.save(named, tmp_path / "odd")
    metadata, text = front_matter(folder)
    assert metadata["pipeline_tag"] == "image-classification"
    assert "<img" not in text and "](javascript" not in text and "\n---\n" not in text and "\n# no" not in text
    assert opened(folder).read_preprocessing().names == (*ODD, "8", "9")
    assert plain("a|b<c>`d`") == r"a\|b&lt;c&gt;\`d\`"


def spoil(config, **changes):
    values = json.loads(config.read_text())
    for name, value in changes.items():
        target = values["aa_flax"]
        *path, last = name.split("__")
        for part in path:
            target = target[part]
        target[last] = value
    config.write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"trained__task": "x", "trained__config__task__name": "os:path"}, "'os:path', a program that a file"),
        ({"trained__config__model__name": "resnet50"}, "and the config on it of another network"),
        ({"trained__config__model__options": {"depth": 10**9}}, "and the config on it of another network"),
        ({"trained__preprocessing__class_names": ["a", "b"]}, "head.bias: expected .2,., found .10,."),
        ({"trained__preprocessing__resize": "../../etc"}, "another version of aa_flax or damaged: resize"),
        ({"trained__preprocessing__mean": 5}, "."),
        ({"trained__preprocessing": {"size": 5}}, "another version of aa_flax or damaged"),
        ({"trained": []}, "another version of aa_flax or damaged"),
        ({"trained__config": {"epoch": 5}}, "another version of aa_flax or damaged"),
        ({"key_names": "../x"}, "names are those of '../x'"),
        ({"sha256": "0"}, "not those that its card describes"),
    ],
)
def test_a_config_with_nonsense_or_malice(folder, changes, words):
    spoil(folder / "config.json", **changes)
    with pytest.raises(WeightsError, match=words):
        aa_flax.load(folder)


class Harm:
    def __reduce__(self):
        return (sys.exit, (7,))


def test_pickles_and_foreign_files_are_not_read(folder, tmp_path):
    (folder / "model.safetensors").write_bytes(pickle.dumps(Harm()))
    with pytest.raises(WeightsError, match=r"model.safetensors: cannot be read as safetensors"):
        aa_flax.load(folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(WeightsError, match=r"no model.safetensors; pytorch_model.bin .* not read"):
        aa_flax.load(folder)
    with pytest.raises(WeightsError, match="expected a run directory, "):
        aa_flax.load(folder / "pytorch_model.bin")


NAMES = [
    "../../etc/passwd",
    "a/b/c",
    "/etc/passwd",
    "owner",
    "",
    "owner/..",
    "../name",
    "a/b--c",
    "a/b\n",
    "a/.b",
    "a/b@../../x",
    "http://x/y",
]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_name_of_a_repository(name, saved):
    with pytest.raises(hub.HubError, match="a repository is named owner/name|a revision is a branch, tag or commit"):
        hub.load(f"hf_hub:{name}")
    with pytest.raises(hub.HubError, match="a repository is named owner/name"):
        hub.push(saved, name)


@pytest.fixture
def library(monkeypatch, tmp_path):
    """Put a folder of repositories in the place of the Hugging Face Hub; return it."""

    class HfApi:
        def __init__(self, token=None):
            self.token = token

        def create_repo(self, repo_id, *, private, exist_ok):
            assert exist_ok
            (tmp_path / "remote" / repo_id).mkdir(parents=True, exist_ok=True)

        def upload_folder(self, *, repo_id, folder_path, allow_patterns, commit_message):
            for name in allow_patterns:
                shutil.copy(f"{folder_path}/{name}", tmp_path / "remote" / repo_id / name)

    class HfHubHTTPError(OSError):
        pass

    def snapshot_download(repo_id, *, revision, allow_patterns):
        if not (tmp_path / "remote" / repo_id).is_dir():
            raise HfHubHTTPError("404 Client Error\nno such repository")
        folder = tmp_path / "cache" / repo_id
        folder.mkdir(parents=True, exist_ok=True)
        for name in allow_patterns:
            if (tmp_path / "remote" / repo_id / name).exists():
                (folder / name).symlink_to(tmp_path / "remote" / repo_id / name)  # as its cache has them
        return str(folder)

    errors = SimpleNamespace(HfHubHTTPError=HfHubHTTPError)
    module = SimpleNamespace(HfApi=HfApi, snapshot_download=snapshot_download, errors=errors)
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    monkeypatch.setitem(sys.modules, "huggingface_hub.errors", errors)
    return tmp_path / "remote"


def test_there_and_back(classify, folder, library):
    (folder / "secret.txt").write_text("mine")
    assert hub.push(folder, "owner/name", private=True) == "https://huggingface.co/owner/name"
    assert {path.name for path in (library / "owner/name").iterdir()} == {
        "config.json",
        "model.safetensors",
        "README.md",
    }
    assert hub.load("owner/name").about.preprocessing == classify.preprocessing
    shutil.rmtree(library.parent / "cache")
    assert opened("hf_hub:owner/name@main").about.preprocessing == classify.preprocessing
    shutil.rmtree(library.parent / "cache")
    (library / "owner/name/model.safetensors").unlink()
    with pytest.raises(hub.HubError, match="has no model.safetensors; files of other kinds"):
        hub.load("owner/name")
    with pytest.raises(hub.HubError, match="owner/other: cannot be fetched .404 Client Error no such repository"):
        hub.load("owner/other")


def test_links_and_foreign_folders_are_not_pushed(folder, library, tmp_path):
    (tmp_path / "key").write_text("secret")
    (folder / "README.md").unlink()
    (folder / "README.md").symlink_to(tmp_path / "key")
    with pytest.raises(WeightsError, match="README.md: a link, which is not followed"):
        hub.push(folder, "owner/name")
    with pytest.raises(WeightsError, match="no such file"):
        hub.push(tmp_path, "owner/name")
    assert not library.exists()


def test_without_the_library_repositories_say_what_to_install(saved, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(hub.HubError, match=r"pip install 'aa_flax\[hub\]'"):
        hub.push(saved, "owner/name")


@pytest.mark.parametrize(
    ("name", "options", "theirs"),
    [
        ("resnet50", {}, "resnet50"),
        ("se_resnet101", {"drop_path_rate": 0.1}, "seresnet101"),
        ("mnasnet_140", {"dropout_rate": 0.2}, "semnasnet_140"),
        ("resnet50", {"width": 32}, None),
        ("resnet50", {"pooling": "attention"}, None),
        ("mnasnet_100", {"batch_norm_epsilon": 1e-3}, None),
        ("mnasnet_125", {}, None),
        ("aa_resnet50", {}, None),
        ("wide_resnet28_10", {}, None),
    ],
)
def test_which_networks_timm_has(name, options, theirs):
    built = SimpleNamespace(
        name=name, options=tuple(options.items()), param_dtype=np.dtype("float32"), num_classes=7, image_size=(64, 96),
        in_channels=1,
    )  # fmt: skip
    config = timm_config(SimpleNamespace(built_from=built), None)
    assert theirs == (config and config["architecture"])
    if config:
        assert config["pretrained_cfg"]["input_size"] == [1, 64, 96] and config["model_args"] == {"in_chans": 1}


def saved_for_timm(name, folder):
    """Return the predictor of a network with batch statistics of its own, and the folder that it is saved in."""
    model = aa_flax.create_model(name, num_classes=3, image_size=(64, 48), rngs=nnx.Rngs(1))
    rng = np.random.default_rng(8)
    for _, module in nnx.iter_modules(model):
        if isinstance(module, nnx.BatchNorm):
            module.mean[...] = rng.normal(0, 0.3, module.mean.shape).astype(np.float32)
            module.var[...] = rng.uniform(0.5, 2, module.var.shape).astype(np.float32)
    how = dict(names=("ant", "bee", "<b>"), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    how |= dict(resize="center_crop", crop_fraction=0.9, interpolation="bicubic")
    predictor = aa_flax.inference.Predictor.of(model, **how)
    return predictor, hub.save(predictor, folder)


@pytest.mark.thorough
def test_a_folder_in_timms_names_gives_the_same_bits(tmp_path):
    predictor, folder = saved_for_timm("resnet18", tmp_path / "resnet18")
    stored = load_file(folder / "model.safetensors")
    assert "layer4.1.bn2.running_var" in stored and "fc.weight" in stored
    again = aa_flax.load(folder)
    for path, array in flat_arrays(predictor.model).items():
        np.testing.assert_array_equal(flat_arrays(again.model)[path], array, err_msg=path)
    assert again.about == predictor.about and again.names == ("ant", "bee", "<b>")
    config = json.loads((folder / "config.json").read_text())
    assert config["pretrained_cfg"]["crop_pct"] == 0.9 and config["label_names"] == ["ant", "bee", "<b>"]
    model = aa_flax.create_model("resnet18", num_classes=3, rngs=nnx.Rngs(2))
    state = read_state_dict(folder / "model.safetensors")
    report = aa_flax.weights.load_torch_state_dict(model, state, source="timm")
    assert any("trained on images of 3×64×48" in note for note in report.notes)


READ_BY_TIMM = """
import sys, numpy as np, torch
sys.path.insert(0, "tests/weights")
from torchvision_here import torchvision_detection
torchvision_detection()
import timm
model = timm.create_model(f"local-dir:{sys.argv[1]}", pretrained=True).eval()
seen = timm.data.resolve_model_data_config(model)
assert tuple(seen["input_size"]) == (3, 64, 48) and seen["crop_pct"] == 0.9 and seen["crop_mode"] == "center", seen
assert seen["interpolation"] == "bicubic" and tuple(seen["mean"]) == (0.4, 0.5, 0.6), seen
assert model.pretrained_cfg["label_names"] == ["ant", "bee", "<b>"]
images = torch.as_tensor(np.load(sys.argv[2]).transpose(0, 3, 1, 2).copy())
with torch.no_grad():
    np.save(sys.argv[3], model(images).numpy())
"""


@pytest.mark.thorough
@pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="needs timm")
@pytest.mark.parametrize("name", ["resnet18", "se_resnet50", "mnasnet_100"])
def test_timm_reads_it(name, tmp_path, rng):
    predictor, folder = saved_for_timm(name, tmp_path / name)
    images = rng.normal(0, 1, (2, 64, 48, 3)).astype(np.float32)
    np.save(tmp_path / "images.npy", images)
    arguments = [str(folder), str(tmp_path / "images.npy"), str(tmp_path / "logits.npy")]
    done = subprocess.run([sys.executable, "-c", READ_BY_TIMM, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    logits = np.asarray(predictor.model(images))
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), logits, rtol=1e-3, atol=1e-4 * np.abs(logits).max())
