"""Relative attention over any number of axes and its gradients in numpy float64, pair by pair, from the equations."""

import itertools

import jax.numpy as jnp
import numpy as np


def attend(query, key, value, tables, scale, valid=None, cotangent=None):
    """Return the output [b, *space, n, dv] and the gradients of sum(output * cotangent): [query, key, value, *tables].

    `tables` has None for an axis without position, and so have the gradients.
    """
    query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
    tables = [None if table is None else np.asarray(table, np.float64) for table in tables]
    space, heads = query.shape[1:-2], query.shape[-2]
    places = list(itertools.product(*map(range, space)))
    valid = np.ones(query.shape[:-2], bool) if valid is None else np.asarray(valid)
    output = np.zeros(value.shape)
    gradients = [None if x is None else np.zeros(x.shape) for x in (query, key, value, *tables)]
    for image, head, i in itertools.product(range(len(query)), range(heads), places):
        keys = [j for j in places if valid[(image, *j)]]
        if not keys:
            continue  # the output is 0
        q = query[(image, *i, head)]
        rows = [[to - at + size - 1 for to, at, size in zip(j, i, space, strict=True)] for j in keys]
        seen = [
            key[(image, *j, head)]
            + sum(table[row] for table, row in zip(tables, own, strict=True) if table is not None)
            for j, own in zip(keys, rows, strict=True)
        ]
        logits = scale * np.array([k @ q for k in seen])
        weights = np.exp(logits - logits.max())
        weights /= weights.sum()
        values = np.array([value[(image, *j, head)] for j in keys])
        output[(image, *i, head)] = weights @ values
        if cotangent is None:
            continue
        upstream = np.asarray(cotangent, np.float64)[(image, *i, head)]
        by_weight = values @ upstream
        by_logit = scale * weights * (by_weight - weights @ by_weight)
        for j, own, k, weight, slope in zip(keys, rows, seen, weights, by_logit, strict=True):
            gradients[0][(image, *i, head)] += slope * k
            gradients[1][(image, *j, head)] += slope * q
            gradients[2][(image, *j, head)] += weight * upstream
            for gradient, row in zip(gradients[3:], own, strict=True):
                if gradient is not None:
                    gradient[row] += slope * q
    return output, gradients


def inputs(rng, b, space, n, dk, dv, *, without=(), dtype=np.float32):
    """Return random query, key, value and the tables, None for the axes `without` position."""
    arrays = [jnp.asarray(rng.normal(size=(b, *space, n, depth)), dtype) for depth in (dk, dk, dv)]
    tables = [
        None if axis in without else jnp.asarray(rng.normal(size=(2 * size - 1, dk)), dtype)
        for axis, size in enumerate(space)
    ]
    return *arrays, tuple(tables)
