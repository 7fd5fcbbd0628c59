import dataclasses
import itertools
import math

import numpy as np
import pytest

from aa_flax.ops import ANCHORS, AnchorOptions, anchor_boxes

PYRAMID = [(80, 80), (40, 40), (20, 20), (10, 10), (5, 5)]
THREE = dataclasses.replace(ANCHORS["tpu"], num_scales=3)


def looped(map_sizes, image_size, options, first_level):
    """Return the anchors by loops, one box at a time."""
    anchors = []
    for level, (rows, columns) in enumerate(map_sizes, first_level):
        stride_y = image_size[0] // rows if options.stride == "image" else 2**level
        stride_x = image_size[1] // columns if options.stride == "image" else 2**level
        shapes = options.pairs or [(1 / math.sqrt(ratio), math.sqrt(ratio)) for ratio in options.ratios]
        sizes = [options.base_size * 2**level * 2 ** (k / options.num_scales) for k in range(options.num_scales)]
        sizes = [int(size) if options.truncate_sizes else size for size in sizes]
        if options.order == "scale":
            sides = [(size, shape) for size in sizes for shape in shapes]
        else:
            sides = [(size, shape) for shape in shapes for size in sizes]
        for y, x, (size, (across, down)) in itertools.product(range(rows), range(columns), sides):
            box = [-size * across / 2, -size * down / 2, size * across / 2, size * down / 2]
            box = [round(corner) if options.round_corners else corner for corner in box]
            left, top = stride_x * (x + options.centre), stride_y * (y + options.centre)
            anchors.append([box[0] + left, box[1] + top, box[2] + left, box[3] + top])
    return np.array(anchors)


@pytest.mark.parametrize(
    ("side", "two", "three"), [(640, 51_150, 76_725), (512, 32_736, 49_104), (1024, 130_944, 196_416)]
)
def test_counts(side, two, three):
    sizes = [(side // 2**level,) * 2 for level in range(3, 8)]
    assert anchor_boxes(sizes, (side, side)).shape == (two, 4)
    assert anchor_boxes(sizes, (side, side), THREE).shape == (three, 4)
    assert ANCHORS["tpu"].per_place == 6 and THREE.per_place == 9


def test_first_anchors_of_the_paper():
    two, three = anchor_boxes(PYRAMID, (640, 640)), anchor_boxes(PYRAMID, (640, 640), THREE)
    expected = [[-12, -12, 20, 20], [-18.4, -7.2, 26.4, 15.2], [-7.2, -18.4, 15.2, 26.4]]
    np.testing.assert_allclose(two[:3], expected, rtol=1e-6)
    np.testing.assert_allclose(three[:3], expected, rtol=1e-6)
    np.testing.assert_allclose(three[3], [-16.1587, -16.1587, 24.1587, 24.1587], rtol=1e-5)
    np.testing.assert_allclose(two[3, 2:] - two[3, :2], 45.2548, rtol=1e-6)
    np.testing.assert_array_equal(two[6, :2] - two[0, :2], [8, 0])  # the next place lies to the right
    np.testing.assert_array_equal(two[6 * 80, :2] - two[0, :2], [0, 8])


@pytest.mark.parametrize("per_place", [6, 9])
def test_sums_of_rows(per_place):
    """Each level's centres have the image's centre for their mean, so each column sums to it, less half the sides."""
    options = dataclasses.replace(ANCHORS["tpu"], num_scales=per_place // 3)
    anchors = anchor_boxes(PYRAMID, (640, 640), options).astype(np.float64)
    np.testing.assert_allclose((anchors[:, :2] + anchors[:, 2:]).sum(0) / 2, 320 * len(anchors), rtol=1e-6)
    octave = sum(2 ** (k / options.num_scales) for k in range(options.num_scales))
    widths = sum(side * side * 4 * 640 / side * octave * (1 + 1.4 + 0.7) for side, _ in PYRAMID)
    np.testing.assert_allclose((anchors[:, 2:] - anchors[:, :2]).sum(0), widths, rtol=1e-6)


@pytest.mark.parametrize("name", [*ANCHORS, "proposals", "odd"])
def test_all_anchors_are_those_of_a_loop(name):
    options, first_level = ANCHORS.get(name), 3
    if name == "proposals":  # of an R-CNN
        options, first_level = dataclasses.replace(ANCHORS["torchvision"], base_size=8, num_scales=1), 2
    if name == "odd":
        options = AnchorOptions(5.5, 4, None, (0.3, 3.0), 0.25, "image", False, True, "shape")
    sizes, image = [(13, 25), (7, 13), (3, 5)], (107, 203)
    found = anchor_boxes(sizes, image, options, first_level=first_level)
    assert len(found) == options.per_place * (13 * 25 + 7 * 13 + 3 * 5) and found.dtype == np.float32
    np.testing.assert_allclose(found, looped(sizes, image, options, first_level), rtol=1e-6, atol=1e-5)


def test_torchvision_at_800():
    """Its strides at P6 and P7 are no powers of two there, its sides whole numbers."""
    sizes = [(100, 100), (50, 50), (25, 25), (13, 13), (7, 7)]
    anchors = anchor_boxes(sizes, (800, 800), ANCHORS["torchvision"])
    starts = np.cumsum([0] + [9 * rows * columns for rows, columns in sizes])
    steps = [anchors[start + 9, 0] - anchors[start, 0] for start in starts[:-1]]
    assert steps == [8, 16, 32, 61, 114]
    # Ratio (height / width) 0.5 first, sides 32, 40, 50, corners rounded.
    np.testing.assert_array_equal(
        anchors[:4], [[-23, -11, 23, 11], [-28, -14, 28, 14], [-35, -18, 35, 18], [-16, -16, 16, 16]]
    )


def test_detectron2_does_not_round():
    anchors = anchor_boxes([(4, 5)], (32, 40), ANCHORS["detectron2"])
    half = 32 / math.sqrt(0.5) / 2
    np.testing.assert_allclose(anchors[:2], [[-half, -half / 2, half, half / 2], [-16, -16, 16, 16]], rtol=1e-6)


@pytest.mark.parametrize("size", [(800, 800), (427, 640)])
def test_anchors_are_those_of_torchvision(size):
    torch = pytest.importorskip("torch")
    utils = pytest.importorskip("torchvision.models.detection.anchor_utils", exc_type=(ImportError, RuntimeError))
    lists = pytest.importorskip("torchvision.models.detection.image_list", exc_type=(ImportError, RuntimeError))
    sizes = tuple((x, int(x * 2 ** (1 / 3)), int(x * 2 ** (2 / 3))) for x in (32, 64, 128, 256, 512))
    maps = [tuple(-(-side // 2**level) for side in size) for level in range(3, 8)]
    generator = utils.AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * 5)
    (expected,) = generator(lists.ImageList(torch.zeros(1, 3, *size), [size]), [torch.zeros(1, 1, *m) for m in maps])
    np.testing.assert_array_equal(anchor_boxes(maps, size, ANCHORS["torchvision"]), expected.numpy())


def test_one_constant_for_all():
    first = anchor_boxes(PYRAMID, (640, 640))
    assert anchor_boxes(tuple(PYRAMID), [640, 640]) is first
    with pytest.raises(ValueError, match="read-only"):
        first[0, 0] = 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(base_size=0.0), "base_size must be above 0"),
        (dict(num_scales=0), "num_scales must be at least 1"),
        (dict(ratios=(1.0,)), "give one of pairs and ratios"),
        (dict(pairs=None), "give one of pairs and ratios"),
        (dict(pairs=None, ratios=()), "numbers above 0, at least one"),
        (dict(pairs=((1.0, -1.0),)), "numbers above 0"),
        (dict(stride="power"), "stride must be one of"),
        (dict(order="ratio"), "order must be one of"),
    ],
)
@pytest.mark.usefixtures("unchecked_shapes")
def test_options_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        AnchorOptions(**options)


def test_maps_that_cannot_be():
    for sizes in ([], [(4, 0)]):
        with pytest.raises(ValueError, match="map_sizes must be heights and widths of at least 1"):
            anchor_boxes(sizes, (32, 32))
