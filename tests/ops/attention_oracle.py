"""Relative attention and its gradients in numpy float64, pair by pair, written from the equations."""

import itertools

import jax.numpy as jnp
import numpy as np


def attend(query, key, value, rel_height, rel_width, scale, cotangent=None):
    """Return the output [b,h,w,n,dv] and the five gradients of sum(output * cotangent), zeros without a cotangent."""
    query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
    b, h, w, n, dk = query.shape
    no_position = rel_height is None
    rel_height = np.zeros((2 * h - 1, dk)) if no_position else np.asarray(rel_height, np.float64)
    rel_width = np.zeros((2 * w - 1, dk)) if no_position else np.asarray(rel_width, np.float64)
    output = np.zeros(value.shape)
    gradients = [np.zeros(x.shape) for x in (query, key, value, rel_height, rel_width)]
    places = list(itertools.product(range(h), range(w)))
    for image, head in itertools.product(range(b), range(n)):
        for iy, ix in places:
            q = query[image, iy, ix, head]
            seen = np.stack(
                [
                    key[image, jy, jx, head] + rel_width[jx - ix + w - 1] + rel_height[jy - iy + h - 1]
                    for jy, jx in places
                ]
            )
            logits = scale * seen @ q
            weights = np.exp(logits - logits.max())
            weights /= weights.sum()
            values = value[image, :, :, head].reshape(h * w, -1)
            output[image, iy, ix, head] = weights @ values
            if cotangent is None:
                continue
            upstream = np.asarray(cotangent, np.float64)[image, iy, ix, head]
            by_weight = values @ upstream
            by_logit = weights * (by_weight - weights @ by_weight)
            gradients[0][image, iy, ix, head] += scale * by_logit @ seen
            for (jy, jx), weight, slope in zip(places, weights, by_logit, strict=True):
                gradients[1][image, jy, jx, head] += scale * slope * q
                gradients[2][image, jy, jx, head] += weight * upstream
                gradients[3][jy - iy + h - 1] += scale * slope * q
                gradients[4][jx - ix + w - 1] += scale * slope * q
    if no_position:
        gradients[3:] = [None, None]
    return output, gradients


def inputs(rng, b, h, w, n, dk, dv, *, tables=True, dtype=np.float32):
    """Return random query, key, value, rel_height and rel_width; the last two are None without tables."""
    shapes = [(b, h, w, n, dk), (b, h, w, n, dk), (b, h, w, n, dv), (2 * h - 1, dk), (2 * w - 1, dk)]
    arrays = [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]
    return arrays if tables else [*arrays[:3], None, None]
