"""The parts of segmentation heads by definition, in NumPy and float64."""

import numpy as np


def conv(x, kernel):
    """Return a convolution of stride 1 with zeros around the map."""
    size, _, _, features = kernel.shape
    b, h, w, _ = x.shape
    around = size // 2
    padded = np.pad(x, ((0, 0), (around, around), (around, around), (0, 0)))
    y = np.zeros((b, h, w, features))
    for i, j in np.ndindex(size, size):
        y += np.einsum("bhwc,cf->bhwf", padded[:, i : i + h, j : j + w], kernel[i, j])
    return y


def conv_norm_relu(x, arrays, name, train=False):
    """Return relu(batch norm(conv)), in training by the statistics of the batch."""
    y = conv(x, arrays[f"{name}.conv.kernel"])
    scale, bias, mean, var = (arrays[f"{name}.norm.{leaf}"] for leaf in ("scale", "bias", "mean", "var"))
    if train:
        mean, var = y.mean((0, 1, 2)), y.var((0, 1, 2))
    return np.maximum((y - mean) / np.sqrt(var + 1e-5) * scale + bias, 0)


def resized(x, height, width):
    """Return a map interpolated along each axis: half-pixel centres, repeated border."""
    for axis, length in ((1, height), (2, width)):
        before = x.shape[axis]
        centres = (np.arange(length) + 0.5) * before / length - 0.5
        x = np.apply_along_axis(lambda line: np.interp(centres, np.arange(before), line), axis, x)  # noqa: B023
    return x


def pooled(x, bins):
    """Return the means over bins × bins rectangles."""
    _, h, w, _ = x.shape
    spans = [[(i * n // bins, -(-(i + 1) * n // bins)) for i in range(bins)] for n in (h, w)]
    rows = [[x[:, a:b, c:d].mean((1, 2)) for c, d in spans[1]] for a, b in spans[0]]
    return np.stack([np.stack(row, 1) for row in rows], 1)


def uper_head(maps, arrays, bins, train=False):
    """Return the maps of UPerNet's pyramid by level, and their fusion."""
    layer = lambda x, name: conv_norm_relu(x, arrays, name, train)  # noqa: E731
    finer, top = sorted(maps)[:-1], maps[max(maps)]
    size = top.shape[1:3]
    parts = [top, *(resized(layer(pooled(top, n), f"pyramid_pooling.bin{n}"), *size) for n in bins)]
    top = layer(np.concatenate(parts, -1), "pyramid_pooling.fuse")
    pyramid = {max(maps): top}
    for level in finer[::-1]:
        lateral = layer(maps[level], f"lateral{level}")
        top = lateral + resized(top, *lateral.shape[1:3])
        pyramid[level] = layer(top, f"output{level}")
    size = maps[min(maps)].shape[1:3]
    joined = np.concatenate([resized(pyramid[level], *size) for level in sorted(maps)], -1)
    return pyramid, layer(joined, "fuse")
