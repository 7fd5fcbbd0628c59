"""The networks of PyTorch's libraries, written from the names in their state dicts.

Maps are NCHW. One backend is in NumPy and one in PyTorch. This file does not use aa_flax.
"""

import numpy as np


class NumpyBackend:
    """Functions in NumPy as PyTorch's documentation defines them."""

    def conv(self, x, weight, stride, groups=1):
        kernel = weight.shape[-1]
        pad = (kernel - 1) // 2
        x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
        windows = np.lib.stride_tricks.sliding_window_view(x, (kernel, kernel), (2, 3))[:, :, ::stride, ::stride]
        if groups == 1:
            return np.einsum("bchwij,ocij->bohw", windows, weight, optimize=True)
        return np.einsum("bchwij,cij->bchw", windows, weight[:, 0], optimize=True)

    def norm(self, x, weight, bias, mean, var, epsilon):
        weight, bias, mean, var = (v[None, :, None, None] for v in (weight, bias, mean, var))
        return (x - mean) / np.sqrt(var + epsilon) * weight + bias

    def relu(self, x):
        return np.maximum(x, 0)

    def sigmoid(self, x):
        return 1 / (1 + np.exp(-x))

    def max_pool(self, x):
        x = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
        return np.lib.stride_tricks.sliding_window_view(x, (3, 3), (2, 3))[:, :, ::2, ::2].max((-1, -2))

    def mean(self, x):
        return x.mean((2, 3), keepdims=True)

    def matmul(self, x, weight, bias):
        return x @ weight.T + bias


class TorchBackend:
    def conv(self, x, weight, stride, groups=1):
        from torch.nn.functional import conv2d

        return conv2d(x, weight, stride=stride, padding=(weight.shape[-1] - 1) // 2, groups=groups)

    def norm(self, x, weight, bias, mean, var, epsilon):
        from torch.nn.functional import batch_norm

        return batch_norm(x, mean, var, weight, bias, eps=epsilon)

    def relu(self, x):
        return x.relu()

    def sigmoid(self, x):
        return x.sigmoid()

    def max_pool(self, x):
        from torch.nn.functional import max_pool2d

        return max_pool2d(x, 3, stride=2, padding=1)

    def mean(self, x):
        return x.mean((2, 3), keepdim=True)

    def matmul(self, x, weight, bias):
        from torch.nn.functional import linear

        return linear(x, weight, bias)


class Network:
    """Layers of a state dict that all families of networks use."""

    def __init__(self, state, backend, epsilon=1e-5):
        self.state, self.backend, self.epsilon = state, backend, epsilon

    def has(self, name):
        return f"{name}.weight" in self.state

    def conv(self, x, name, stride=1, depthwise=False):
        weight = self.state[f"{name}.weight"]
        y = self.backend.conv(x, weight, stride, groups=weight.shape[0] if depthwise else 1)
        bias = self.state.get(f"{name}.bias")
        return y if bias is None else y + bias[None, :, None, None]

    def norm(self, x, name):
        return self.backend.norm(
            x,
            *(self.state[f"{name}.{leaf}"] for leaf in ("weight", "bias", "running_mean", "running_var")),
            self.epsilon,
        )

    def gate(self, x, squeeze, excite):
        hidden = self.backend.relu(self.conv(self.backend.mean(x), squeeze))
        return x * self.backend.sigmoid(self.conv(hidden, excite))

    def classify(self, x, name):
        return self.backend.matmul(
            self.backend.mean(x)[:, :, 0, 0], self.state[f"{name}.weight"], self.state[f"{name}.bias"]
        )


def resnet(state, x, backend):
    """Return the logits of torchvision's and timm's ResNet, version 1.5, with the stride in a bottleneck's 3×3."""
    net = Network(state, backend)
    return net.classify(resnet_maps(net, x)[-1], "fc")


def resnet_maps(net, x):
    """Return the maps after each of the four layers."""
    backend, maps = net.backend, []
    x = backend.max_pool(backend.relu(net.norm(net.conv(x, "conv1", 2), "bn1")))
    for layer in (1, 2, 3, 4):
        block = 0
        while net.has(name := f"layer{layer}.{block}.conv1"):
            name = name.removesuffix(".conv1")
            stride = 2 if layer > 1 and block == 0 else 1
            bottleneck = net.has(f"{name}.conv3")
            y = backend.relu(net.norm(net.conv(x, f"{name}.conv1", 1 if bottleneck else stride), f"{name}.bn1"))
            y = net.norm(net.conv(y, f"{name}.conv2", stride if bottleneck else 1), f"{name}.bn2")
            if bottleneck:
                y = net.norm(net.conv(backend.relu(y), f"{name}.conv3"), f"{name}.bn3")
            if net.has(f"{name}.se.fc1"):
                y = net.gate(y, f"{name}.se.fc1", f"{name}.se.fc2")
            if net.has(f"{name}.downsample.0"):
                x = net.norm(net.conv(x, f"{name}.downsample.0", stride), f"{name}.downsample.1")
            x = backend.relu(x + y)
            block += 1
        maps.append(x)
    return maps


def retinanet(state, x, backend):
    """Return logits [b, anchors, classes] and boxes [b, anchors, 4] of torchvision's RetinaNet."""
    body = {key.removeprefix("backbone.body."): value for key, value in state.items()}
    tops = resnet_maps(Network(body, backend, epsilon=0.0), x)[1:]
    net = Network(state, backend)
    inner = [net.conv(top, f"backbone.fpn.inner_blocks.{i}.0") for i, top in enumerate(tops)]
    for i in (1, 0):
        below, above = inner[i], inner[i + 1]
        rows, columns = (np.arange(n) * m // n for n, m in zip(below.shape[2:], above.shape[2:], strict=True))
        inner[i] = below + above[:, :, rows][:, :, :, columns]
    maps = [net.conv(x, f"backbone.fpn.layer_blocks.{i}.0") for i, x in enumerate(inner)]
    maps.append(net.conv(maps[-1], "backbone.fpn.extra_blocks.p6", 2))
    maps.append(net.conv(backend.relu(maps[-1]), "backbone.fpn.extra_blocks.p7", 2))
    found = []
    for head, out in (("classification_head", "cls_logits"), ("regression_head", "bbox_reg")):
        levels = []
        for x in maps:
            i = 0
            while net.has(name := f"head.{head}.conv.{i}.0"):
                x, i = backend.relu(net.conv(x, name)), i + 1
            y = net.conv(x, f"head.{head}.{out}")
            b, channels, h, w = y.shape
            levels.append(y.reshape(b, 9, channels // 9, h, w).transpose(0, 3, 4, 1, 2).reshape(b, 9 * h * w, -1))
        found.append(np.concatenate(levels, 1))
    return found


def semnasnet(state, x, backend):
    """Return the logits of timm's semnasnet, MnasNet-A1 in seven groups of blocks."""
    net = Network(state, backend)
    x = backend.relu(net.norm(net.conv(x, "conv_stem", 2), "bn1"))
    y = backend.relu(net.norm(net.conv(x, "blocks.0.0.conv_dw", depthwise=True), "blocks.0.0.bn1"))
    x = net.norm(net.conv(y, "blocks.0.0.conv_pw"), "blocks.0.0.bn2")
    for group, stride in ((1, 2), (2, 2), (3, 2), (4, 1), (5, 2), (6, 1)):
        block = 0
        while net.has(f"blocks.{group}.{block}.conv_pw"):
            name = f"blocks.{group}.{block}"
            y = backend.relu(net.norm(net.conv(x, f"{name}.conv_pw"), f"{name}.bn1"))
            y = net.conv(y, f"{name}.conv_dw", stride if block == 0 else 1, depthwise=True)
            y = backend.relu(net.norm(y, f"{name}.bn2"))
            if net.has(f"{name}.se.conv_reduce"):
                y = net.gate(y, f"{name}.se.conv_reduce", f"{name}.se.conv_expand")
            y = net.norm(net.conv(y, f"{name}.conv_pwl"), f"{name}.bn3")
            x = x + y if x.shape == y.shape else y
            block += 1
    return net.classify(backend.relu(net.norm(net.conv(x, "conv_head"), "bn2")), "classifier")
