import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from aa_flax.analysis import attention_maps
from aa_flax.drawing.attention_figures import draw_attention
from aa_flax.drawing.attention_maps import attending_paths
from aa_flax.drawing.photo_attention import AttentionError, layers_to_draw, picture_files
from aa_flax.layers import AAConv2D
from aa_flax.models import create_model


@pytest.fixture(scope="module")
def model():
    options = dict(depth=10, widen_factor=1, num_heads=2, upsilon=0.25, min_key_depth_per_head=3, num_classes=7)
    return create_model(
        "aa_wide_resnet28_10", image_size=(12, 8), attention_downsample=(2, 1, 1), **options, rngs=nnx.Rngs(0)
    )


@pytest.fixture
def images(rng):
    return jnp.asarray(rng.normal(size=(2, 12, 8, 3)), jnp.float32)


def test_every_layer_at_its_attended_size(model, images):
    maps = attention_maps(model, images)
    sizes = {path: m.shape for path, m in maps.items()}
    assert sizes == {
        "stage1.block1.conv1": (2, 2, 6, 4, 6, 4),
        "stage2.block1.conv1": (2, 2, 6, 4, 6, 4),
        "stage3.block1.conv1": (2, 2, 3, 2, 3, 2),
    }
    for weights in maps.values():
        np.testing.assert_allclose(weights.sum((-2, -1)), np.ones(weights.shape[:4]), rtol=1e-5)


@pytest.mark.thorough
def test_the_maps_are_those_of_the_forward_pass(model, images):
    """The last layer's map times its values is what the layer returns."""
    layer = model.stage3.block1.conv1
    seen = {}
    original = type(layer).__call__

    def spy(self, x):
        seen[id(self)] = x
        return original(self, x)

    type(layer).__call__ = spy
    try:
        model(images)
    finally:
        type(layer).__call__ = original
    expected = layer.attention_weights(seen[id(layer)])
    np.testing.assert_allclose(
        attention_maps(model, images, layers="stage3.block1.conv1")["stage3.block1.conv1"], expected, rtol=1e-4
    )


def test_queries_are_pixels_of_the_image(model, images):
    everything = attention_maps(model, images)
    few = attention_maps(model, images, layers=["stage1.*", "stage3.*"], queries=[(0, 7), (11, 3)])
    assert list(few) == ["stage1.block1.conv1", "stage3.block1.conv1"]
    first, last = few.values()
    np.testing.assert_allclose(first[:, :, 0], everything["stage1.block1.conv1"][:, :, 0, 3], rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(first[:, :, 1], everything["stage1.block1.conv1"][:, :, 5, 1], rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(last[:, :, 1], everything["stage3.block1.conv1"][:, :, 2, 0], rtol=1e-4, atol=1e-7)


def test_errors(model, images):
    with pytest.raises(ValueError, match=r"no attending layer matches 'stage4.\*'; attending layers: stage1.block1"):
        attention_maps(model, images, layers=["stage4.*"])
    with pytest.raises(ValueError, match=r"\(row, column\) pixels of a 12x8 image, got \[\[0, 8\]\]"):
        attention_maps(model, images, queries=[(0, 8)])
    plain = create_model("wide_resnet28_10", depth=10, widen_factor=1, rngs=nnx.Rngs(0))
    assert attention_maps(plain, images) == {}
    with pytest.raises(ValueError, match="attending layers: none"):
        attention_maps(plain, images, layers="*")


def test_a_layer_that_inherits_its_call_is_seen(images):
    class Mine(AAConv2D):
        pass

    def conv(in_features, out_features, kernel_size, *, strides, map_shape, stage, **options):
        depths = dict(num_heads=2, key_depth=4, value_depth=4, spatial_shape=map_shape)
        return Mine(in_features, out_features, kernel_size, strides=strides, **depths, **options)

    mine = create_model("wide_resnet28_10", depth=10, widen_factor=1, image_size=(12, 8), conv=conv, rngs=nnx.Rngs(0))
    assert len(attention_maps(mine, images, queries=[(0, 0)])) == 3


def test_figure(model, images, rng, tmp_path):
    pixels = rng.integers(0, 256, (2, 12, 8, 3), np.uint8)
    assert draw_attention(model, images, pixels, ["cat", "dog"], tmp_path / "maps.png")
    assert (tmp_path / "maps.png").stat().st_size > 5000
    plain = create_model("wide_resnet28_10", depth=10, widen_factor=1, rngs=nnx.Rngs(0))
    assert not draw_attention(plain, images, pixels, ["cat", "dog"], tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


@pytest.fixture
def both():
    """Return a network that attends in its last stage and in its pooling."""
    options = dict(depth=10, widen_factor=1, attention_stages=(3,), num_heads=2, upsilon=0.25, num_classes=3)
    pooling = dict(pooling="attention", pooling_tokens="class")
    return create_model("aa_wide_resnet28_10", image_size=(12, 8), **options, **pooling, rngs=nnx.Rngs(0))


@pytest.mark.thorough
def test_figures_of_a_network_with_both_kinds(both, images, rng, tmp_path):
    pixels = rng.integers(0, 256, (2, 12, 8, 3), np.uint8)
    assert draw_attention(both, images, pixels, ["cat", "dog"], tmp_path / "maps.png", ["cat", "dog", "eel"])
    assert sorted(file.name for file in tmp_path.iterdir()) == ["maps.png", "maps_pooling.png"]


def test_what_is_drawn_of_a_photo(both, model):
    assert attending_paths(both) == (["stage3.block1.conv1"], ["pooling"])
    assert layers_to_draw(both, False) == ["pooling"]
    assert layers_to_draw(both, True) == ["stage3.block1.conv1"]
    assert layers_to_draw(model, False) == [f"stage{i}.block1.conv1" for i in (1, 2, 3)]
    pooling = create_model("wide_resnet28_10", depth=10, widen_factor=1, pooling="attention", rngs=nnx.Rngs(0))
    with pytest.raises(AttentionError, match="--query: this network attends in its pooling alone"):
        layers_to_draw(pooling, True)


def test_names_of_pictures(tmp_path):
    photos = ["x/cat.jpg", "y/cat.png", "y/Cat.webp", "y/dog.tar.png", str(tmp_path / "eel-attention.png")]
    photos.append(str(tmp_path / "eel.png"))
    files = picture_files(tmp_path, photos)
    assert [files[photo].name for photo in photos] == [
        "cat-attention.png",
        "cat-2-attention.png",
        "Cat-3-attention.png",
        "dog.tar-attention.png",
        "eel-attention-attention.png",
        "eel-2-attention.png",  # eel-attention.png is a photo
    ]
    (tmp_path / "file").write_text("")
    with pytest.raises(AttentionError, match=r"file/maps: cannot be made a folder \(Not a directory\)"):
        picture_files(tmp_path / "file" / "maps", photos)


def test_pictures_of_photos_with_long_names_can_be_written(tmp_path):
    photos = ["x" * 251 + ".png", "x" * 250 + "y.jpg", "é" * 125 + ".png", "a/" + "é" * 125 + ".png", "\udcff" * 250]
    files = picture_files(tmp_path, photos)
    for file in files.values():
        file.write_bytes(b"")
        assert file.name.endswith("-attention.png")
    assert len(set(files.values())) == len(list(tmp_path.iterdir())) == len(photos)
