import pytest
import tensorflow_datasets as tfds
from absl import flags

from aa_flax.data import DataError
from aa_flax.data.sets import catalogue


def test_without_tensorflow(tmp_path, monkeypatch):
    monkeypatch.setattr(catalogue.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r'imagenet2012: .* needs TensorFlow: pip install "aa_flax\[prepare\]"'):
        catalogue.prepare_from_catalogue("imagenet2012", tmp_path)


class Builder:
    """Replacement of a builder of the TFDS catalogue, which would need the network."""

    def __init__(self, folder, fails=False):
        self.data_dir, self.fails = folder, fails

    def download_and_prepare(self, download_config):
        self.config = download_config
        if self.fails:
            raise AssertionError("Manual directory\n  does not exist")


def test_array_record_from_the_named_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(catalogue.importlib.util, "find_spec", lambda name: object())
    made = {}

    def builder(name, **options):
        made.update(name=name, **options, builder=Builder(tmp_path / "made"))
        return made["builder"]

    monkeypatch.setattr(tfds, "builder", builder)
    found = catalogue.prepare_from_catalogue("imagenet2012", tmp_path, tmp_path / "archives")
    assert found == tmp_path / "made"
    assert (made["name"], made["data_dir"], made["file_format"]) == ("imagenet2012", tmp_path, "array_record")
    assert made["builder"].config.manual_dir == str(tmp_path / "archives")


def test_what_tfds_raises_becomes_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(catalogue.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(tfds, "builder", lambda *a, **k: Builder(tmp_path, fails=True))
    with pytest.raises(DataError, match=r"could not prepare .* \(AssertionError: Manual directory does not exist\)"):
        catalogue.prepare_from_catalogue("imagenet2012", tmp_path)


@pytest.mark.parametrize(
    ("name", "source_dir", "asks"),
    [("cifar10", "", True), ("cifar10", "folder", False), ("image_folder/a", "", False)],
)
def test_prepare_asks_the_catalogue_where_no_folder_is_named(monkeypatch, tmp_path, name, source_dir, asks):
    from aa_flax.data import __main__ as command

    asked = []
    monkeypatch.setattr(command, "prepare_from_catalogue", lambda name, *_: asked.append(name))
    values = flags.FlagValues()
    command.define(values)
    values(["prepare", f"--data_dir={tmp_path}", f"--source_dir={source_dir}"])
    with pytest.raises(DataError):
        command._prepare(name, values)  # raises because no prepared data is there in the end
    assert asked == [name] * asks
