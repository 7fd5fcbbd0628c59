"""Tests of the heads of segmentation networks, against NumPy in float64 and PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from layers import head_oracle

from aa_flax.layers import FCNHead, FPNHead, PixelClassifier, PyramidPooling, UPerHead
from aa_flax.weights.arrays import fill_arrays, flat_arrays

CHANNELS = {2: 2, 3: 3, 4: 5, 5: 4}
SIZES = {2: (13, 8), 3: (7, 4), 4: (4, 2), 5: (2, 1)}  # sides odd and even
BINS = (1, 3)


def drawn(rng, model):
    """Give every array random values, variances positive, and return them."""
    values = {
        path: rng.uniform(0.5, 1.5, a.shape) if path.endswith("var") else rng.normal(size=a.shape) * 0.3
        for path, a in flat_arrays(model).items()
    }
    fill_arrays(model, values)
    return {path: np.asarray(value, np.float64) for path, value in flat_arrays(model).items()}


def maps_of(rng):
    return {level: rng.normal(size=(2, *SIZES[level], CHANNELS[level])).astype(np.float32) for level in SIZES}


def called(model, maps, train):
    """Return the pyramid's maps, the head's and the statistics afterwards, of one program."""
    graph, state = nnx.split(model)

    @jax.jit
    def run(state, maps):
        head = nnx.merge(graph, state, copy=True)
        pyramid = head.pyramid(maps, train=train)
        return pyramid, head(pyramid, train=train), nnx.to_pure_dict(nnx.state(head, nnx.BatchStat))

    return run(state, maps)


@pytest.mark.few(1)
@pytest.mark.parametrize("train", [True, False])
def test_uper_head_by_definition(rng, train):
    model = UPerHead(CHANNELS, width=6, bins=BINS, rngs=nnx.Rngs(0))
    arrays, maps = drawn(rng, model), maps_of(rng)
    pyramid, fused, statistics = called(model, maps, train)
    expected, expected_fused = head_oracle.uper_head(maps, arrays, BINS, train)
    assert [*pyramid] == [2, 3, 4, 5] and model.width == model.pyramid_width == 6
    for level, x in expected.items():
        np.testing.assert_allclose(pyramid[level], x, rtol=1e-4, atol=1e-4, err_msg=str(level))
    np.testing.assert_allclose(fused, expected_fused, rtol=1e-4, atol=2e-4)
    norm = statistics["pyramid_pooling"]["bin3"]["norm"]
    before = head_oracle.conv(head_oracle.pooled(maps[5], 3), arrays["pyramid_pooling.bin3.conv.kernel"])
    mean = arrays["pyramid_pooling.bin3.norm.mean"]
    expected_mean = 0.9 * mean + 0.1 * before.mean((0, 1, 2)) if train else mean
    np.testing.assert_allclose(norm["mean"], expected_mean, rtol=1e-5, atol=1e-6)


def test_fpn_head_by_definition(rng):
    """One convolution at the finest level; at level l else l - 2, each followed by doubling; the sum of all."""
    model = FPNHead(CHANNELS, fpn_width=5, width=6, rngs=nnx.Rngs(0))
    arrays, maps = drawn(rng, model), maps_of(rng)
    pyramid, total, _ = called(model, maps, False)
    assert [*pyramid] == [2, 3, 4, 5] and (model.width, model.pyramid_width) == (6, 5)
    expected = np.zeros(total.shape)
    for level, x in pyramid.items():
        x = np.asarray(x, np.float64)
        for i in range(max(1, level - 2)):
            x = head_oracle.conv_norm_relu(x, arrays, f"level{level}_conv{i + 1}")
            x = head_oracle.resized(x, *SIZES[max(level - i - 1, 2)])
        expected += x
    np.testing.assert_allclose(total, expected, rtol=1e-4, atol=1e-4)
    names = {path.rpartition("_")[2].split(".")[0] for path in arrays if path.startswith("level5")}
    assert names == {"conv1", "conv2", "conv3"} and "level3_conv2.conv.kernel" not in arrays


def test_fcn_head_by_definition(rng):
    model = FCNHead(3, 5, width=4, rngs=nnx.Rngs(0))
    arrays = drawn(rng, model)
    x = rng.normal(size=(2, 5, 4, 3)).astype(np.float32)
    hidden = head_oracle.conv_norm_relu(x, arrays, "conv")
    expected = head_oracle.conv(hidden, arrays["classifier.out.kernel"]) + arrays["classifier.out.bias"]
    np.testing.assert_allclose(model(jnp.asarray(x)), expected, rtol=1e-4, atol=1e-5)


def test_initial_values(rng):
    """Classifiers start at N(0, 0.01²), other kernels by their fan-out as He et al. do."""
    model = FCNHead(64, 300, width=128, rngs=nnx.Rngs(0))
    assert float(model.classifier.out.kernel[...].std()) == pytest.approx(0.01, rel=0.03)
    assert not model.classifier.out.bias[...].any() and model.conv.conv.bias is None
    assert float(model.conv.conv.kernel[...].std()) == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.03)


def test_dropout_is_of_whole_channels(rng):
    """A channel of an image is 0 everywhere or scaled everywhere; each image and each call has channels of its own."""
    model = PixelClassifier(400, 400, dropout_rate=0.25, rngs=nnx.Rngs(0))
    fill_arrays(model, {"out.kernel": np.eye(400)[None, None], "out.bias": np.zeros(400)})
    x = jnp.ones((2, 3, 2, 400))
    rngs = nnx.Rngs(dropout=1)
    first, second = (np.asarray(model(x, train=True, rngs=rngs)) for _ in range(2))
    np.testing.assert_array_equal(first, np.broadcast_to(first[:, :1, :1], first.shape))
    assert {*np.unique(first.round(5))} == {np.float32(0), np.float32(1.33333)}
    assert (first == 0).mean() == pytest.approx(0.25, abs=0.05)  # 3 standard deviations
    assert (first[0] != first[1]).any() and (first != second).any()
    np.testing.assert_array_equal(model(x), x)
    assert PixelClassifier(2, 3, dropout_rate=0.0, rngs=nnx.Rngs(0)).dropout is None


def test_settings_that_cannot_be():
    for bins in ((), (0, 1), (2, 2)):
        with pytest.raises(ValueError, match="pooling_bins must be different whole numbers of at least 1, got"):
            PyramidPooling(3, bins=bins, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"dropout_rate must lie in \[0, 1\), got 1"):
        PixelClassifier(3, 2, dropout_rate=1.0, rngs=nnx.Rngs(0))


def torch_uper_head(torch, bins, width):
    """Return `UPerHead` written with PyTorch's own layers, its convolutions named as ours are."""
    nn, resize = torch.nn, torch.nn.functional.interpolate

    def layer(features, out, size):
        return nn.Sequential(
            nn.Conv2d(features, out, size, padding=size // 2, bias=False), nn.BatchNorm2d(out), nn.ReLU()
        )

    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleDict({f"pyramid_pooling/bin{n}": layer(CHANNELS[5], width, 1) for n in bins})
            self.layers["pyramid_pooling/fuse"] = layer(CHANNELS[5] + len(bins) * width, width, 3)
            for level in (2, 3, 4):
                self.layers[f"lateral{level}"] = layer(CHANNELS[level], width, 1)
                self.layers[f"output{level}"] = layer(width, width, 3)
            self.layers["fuse"] = layer(4 * width, width, 3)

        def forward(self, maps):
            up = lambda x, like: resize(x, like.shape[2:], mode="bilinear", align_corners=False)  # noqa: E731
            top, layers = maps[5], self.layers
            parts = [nn.functional.adaptive_avg_pool2d(top, n) for n in bins]
            parts = [up(layers[f"pyramid_pooling/bin{n}"](x), top) for n, x in zip(bins, parts, strict=True)]
            top = layers["pyramid_pooling/fuse"](torch.cat([top, *parts], 1))
            found = [top]
            for level in (4, 3, 2):
                lateral = layers[f"lateral{level}"](maps[level])
                top = lateral + up(top, lateral)
                found.insert(0, layers[f"output{level}"](top))
            return layers["fuse"](torch.cat([up(x, maps[2]) for x in found], 1))

    return Head()


def test_uper_head_is_pytorchs_in_training(rng):
    """Values, running statistics but for PyTorch's unbiased variance, and gradients of maps and of kernels."""
    torch = pytest.importorskip("torch")
    bins, width = (1, 2, 3, 6), 6
    model = UPerHead(CHANNELS, width=width, bins=bins, rngs=nnx.Rngs(0))
    arrays, maps = drawn(rng, model), maps_of(rng)
    theirs = torch_uper_head(torch, bins, width)
    leaves = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
    for name, layers in theirs.layers.items():
        path = name.replace("/", ".")
        kernel = torch.from_numpy(arrays[f"{path}.conv.kernel"].transpose(3, 2, 0, 1).copy()).float()
        layers[0].weight.data.copy_(kernel)
        for ours, leaf in leaves.items():
            getattr(layers[1], leaf).data.copy_(torch.from_numpy(arrays[f"{path}.norm.{ours}"]))
    inputs = {level: torch.from_numpy(x.transpose(0, 3, 1, 2).copy()).requires_grad_() for level, x in maps.items()}
    expected = theirs.double().train()({level: x.double() for level, x in inputs.items()})
    weights = rng.normal(size=(2, *SIZES[2], width))
    (expected * torch.from_numpy(weights.transpose(0, 3, 1, 2).copy())).sum().backward()

    graph, params, rest = nnx.split(model, nnx.Param, ...)

    @jax.jit
    def run(params, maps):
        def loss(params, maps):
            head = nnx.merge(graph, params, rest, copy=True)
            y = head(head.pyramid(maps, train=True), train=True)
            return (y * jnp.asarray(weights, jnp.float32)).sum(), (y, head.lateral3.norm.mean[...])

        return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(params, maps)

    (_, (found, mean)), (of_params, of_maps) = run(params, maps)
    np.testing.assert_allclose(found, expected.detach().numpy().transpose(0, 2, 3, 1), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(mean, theirs.layers["lateral3"][1].running_mean, rtol=1e-4, atol=1e-5)
    for level, x in inputs.items():
        wanted = x.grad.numpy().transpose(0, 2, 3, 1)
        np.testing.assert_allclose(of_maps[level], wanted, rtol=1e-2, atol=1e-3 * np.abs(wanted).max())
    wanted = theirs.layers["fuse"][0].weight.grad.numpy().transpose(2, 3, 1, 0)
    kernel = nnx.to_pure_dict(of_params)["fuse"]["conv"]["kernel"]
    np.testing.assert_allclose(kernel, wanted, rtol=1e-2, atol=1e-3 * np.abs(wanted).max())
