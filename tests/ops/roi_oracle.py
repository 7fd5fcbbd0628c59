"""RoIAlign by the definition, sample after sample in float64, as the matrix that multiplies all locations of maps."""

import math

import numpy as np


def hat(at, length):
    """Return the locations along an axis that a coordinate reads, each with its share; none if it lies too far out."""
    if at < -1 or at > length:
        return []
    at = min(max(at, 0.0), length - 1.0)
    low = math.floor(at)
    return [(low, 1.0 - (at - low))] + ([(low + 1, at - low)] if low + 1 < length else [])


def samples(low, high, bins, ratio, most, aligned):
    """Return for each bin along an axis the coordinates of its samples."""
    if aligned:
        low, high = low - 0.5, high - 0.5
    side = high - low if aligned else max(high - low, 1.0)
    step = side / bins
    number = ratio or min(math.ceil(step), most)
    return [[low + bin * step + (k + 0.5) * step / number for k in range(number)] for bin in range(bins)]


def level_of(box, strides, canonical=224):
    """Return the number of the map that a box reads."""
    area = max(box[2] - box[0], 0) * max(box[3] - box[1], 0)
    if area <= 0:
        return 0
    exact = math.floor(4 + math.log2(math.sqrt(area) / canonical) + 1e-6)
    first, last = round(math.log2(strides[0])), round(math.log2(strides[-1]))
    return min(max(exact, first), last) - first


def matrix(shapes, box, size, strides, ratio=2, aligned=True, most=8, canonical=224):
    """Return [oh * ow, locations of all maps] for one box; `shapes` are the (height, width) of the maps."""
    box = np.asarray(box, np.float64)
    number = level_of(box, strides, canonical) if len(shapes) > 1 else 0
    first = sum(h * w for h, w in shapes[:number])
    (height, width), scaled = shapes[number], box / strides[number]
    down = samples(scaled[1], scaled[3], size[0], ratio, most, aligned)
    across = samples(scaled[0], scaled[2], size[1], ratio, most, aligned)
    result = np.zeros((size[0], size[1], sum(h * w for h, w in shapes)))
    for i, ys in enumerate(down):
        for j, xs in enumerate(across):
            for y in ys:
                for x in xs:
                    for row, share in hat(y, height):
                        for column, other in hat(x, width):
                            result[i, j, first + row * width + column] += share * other / (len(ys) * len(xs))
    return result.reshape(-1, result.shape[-1])


def flat(maps):
    """Return maps [b, h, w, c] as one array [b, locations, c]."""
    return np.concatenate([np.asarray(each, np.float64).reshape(len(each), -1, each.shape[-1]) for each in maps], 1)


def aligned_and_gradients(maps, boxes, cotangent, size, strides, **settings):
    """Return the bins [b, n, oh, ow, c], and the gradients by the maps of their sum weighed by the cotangent."""
    shapes = [each.shape[1:3] for each in maps]
    matrices = np.stack([[matrix(shapes, box, size, strides, **settings) for box in image] for image in boxes])
    values = np.einsum("bnop,bpc->bnoc", matrices, flat(maps))
    grown = np.asarray(cotangent, np.float64).reshape(values.shape)
    gradients = np.einsum("bnop,bnoc->bpc", matrices, grown)
    ends = np.cumsum([h * w for h, w in shapes])[:-1]
    parts = np.split(gradients, ends, 1)
    return values.reshape(cotangent.shape), [part.reshape(each.shape) for part, each in zip(parts, maps, strict=True)]
