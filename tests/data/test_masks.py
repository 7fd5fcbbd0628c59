"""Tests of the masks of objects: from polygons and run lengths of a file to squares beside the boxes on a canvas."""

import json

import numpy as np
import pytest
import tensorflow_datasets as tfds
from photo_sets import Made, photos, write_coco, write_image, write_voc

from aa_flax.data import Boxes, DataError, eval_batches, load
from aa_flax.data.annotated import Objects, Truth
from aa_flax.data.masks import counts_of, cropped, encoded, from_values, mask_of, run_lengths_fault
from aa_flax.data.placement import scaled
from aa_flax.data.sets.coco_json import CocoJson
from aa_flax.data.sets.moved import moved_segmentation, turned_points
from aa_flax.data.view import View

SIDE = 23


def inside(polygon, x, y):
    """Return whether points lie in a polygon x1, y1, x2, y2, ... (crossings of a ray), and whether near its outline."""
    corners = np.array(polygon, float).reshape(-1, 2)
    within, near = np.zeros(np.shape(x), bool), np.full(np.shape(x), np.inf)
    for (ax, ay), (bx, by) in zip(corners, np.roll(corners, -1, 0), strict=True):
        crosses = (ay > y) != (by > y)
        within ^= crosses & (x < ax + (bx - ax) * (y - ay) / np.where(by == ay, 1, by - ay))
        along = np.clip(
            ((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / max((bx - ax) ** 2 + (by - ay) ** 2, 1e-12), 0, 1
        )
        near = np.minimum(near, np.hypot(x - ax - along * (bx - ax), y - ay - along * (by - ay)))
    return within, near


def star(rng, size, points=7):
    """Return a polygon of random radii around a point of a photograph, in which it may not be all."""
    angles = np.linspace(0, 2 * np.pi, points, endpoint=False)
    radii = rng.uniform(0.2, 0.6, points) * min(size)
    centre = rng.uniform(0.2, 0.8, 2) * size[::-1]
    return (centre + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)).reshape(-1).tolist()


def bounds(polygon):
    return np.array([min(polygon[::2]), min(polygon[1::2]), max(polygon[::2]), max(polygon[1::2])])


def centres(box, side):
    """Return x and y of the centres of side × side cells in a box."""
    steps = (np.arange(side) + 0.5) / side
    return np.meshgrid(box[0] + steps * (box[2] - box[0]), box[1] + steps * (box[3] - box[1]))


def test_a_polygon_in_a_box_is_what_lies_inside_it(rng):
    """Of cells whose centres are a tenth of a cell from an outline or more: the library rounds corners to a fifth."""
    for _ in range(20):
        polygon = star(rng, (41, 67))
        box = bounds(polygon) + rng.uniform(-9, 9, 4) * [1, 1, -1, -1]  # larger, or a part
        if (box[2:] - box[:2]).min() < 5:
            continue
        square = cropped(json.dumps([polygon]), box, (41, 67), SIDE)
        within, near = inside(polygon, *centres(box, SIDE))
        certain = near > 0.3 * (box[2:] - box[:2]).max() / SIDE
        assert certain.mean() > 0.5 and square.dtype == np.uint8
        np.testing.assert_array_equal(square[certain], within[certain])


def test_several_polygons_are_one_mask():
    two = [[0, 0, 8, 0, 8, 8, 0, 8], [4, 4, 12, 4, 12, 12, 4, 12]]
    pixels = mask_of(json.dumps(two), (12, 16)).pixels()
    expected = np.zeros((12, 16), bool)
    expected[:8, :8] = expected[4:12, 4:12] = True
    np.testing.assert_array_equal(pixels, expected)
    assert mask_of(json.dumps(two), (12, 16)).area == 112 and mask_of(json.dumps(two), (12, 16)).box == (0, 0, 12, 12)
    np.testing.assert_array_equal(
        cropped(json.dumps(two), np.array([0, 0, 16, 12.0]), (12, 16), 12)[:, :3].T[0], [1] * 8 + [0] * 4
    )


def test_run_lengths_in_a_box_have_the_pixels_of_their_cells(rng):
    pixels = rng.random((19, 31)) < 0.5
    text = json.dumps(encoded(pixels).values())
    for box in (np.array([0, 0, 31, 19.0]), np.array([3.2, 1.7, 12.9, 18.1]), np.array([-5.5, 11.0, 40.25, 30.5])):
        expected = np.zeros((SIDE, SIDE), np.uint8)
        x, y = centres(box, SIDE)
        for cell in np.ndindex(SIDE, SIDE):
            column, row = int(np.floor(x[cell])), int(np.floor(y[cell]))
            if 0 <= row < 19 and 0 <= column < 31:
                expected[cell] = pixels[row, column]
        np.testing.assert_array_equal(cropped(text, box, (19, 31), SIDE), expected)


def test_both_forms_of_run_lengths_are_the_same_mask(rng):
    pixels = rng.random((13, 17)) < 0.3
    mask = encoded(pixels)
    ends = np.flatnonzero(np.diff(np.concatenate([[0], pixels.T.reshape(-1), [2]])))
    assert counts_of(mask.counts) == np.diff(ends, prepend=0).tolist()
    listed = from_values({"size": [13, 17], "counts": counts_of(mask.counts)}, (13, 17))
    assert listed == mask == from_values(mask.values(), (13, 17))
    np.testing.assert_array_equal(listed.pixels(), pixels)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"size": [3, 4], "counts": [5, 4]}, "cover 9 pixels of 12"),
        ({"size": [3, 4], "counts": [5, 9]}, "cover 14 pixels of 12"),
        ({"size": [3, 4], "counts": "54"}, "cover 9 pixels of 12"),
        ({"size": [3, 4], "counts": [5, -4, 11]}, "expected a list of whole numbers or COCO's text"),
        ({"size": [3, 4], "counts": [5.0, 7]}, "expected a list of whole numbers"),
        ({"size": [3, 4], "counts": "Z@1"}, "expected a list of whole numbers"),
        ({"size": [3, 4], "counts": "é"}, "expected a list of whole numbers"),
        ({"size": [3, 4], "counts": "P" * 40}, "expected a list of whole numbers"),
        ({"size": [3, 4], "counts": None}, "expected a list of whole numbers"),
        ({"size": [4, 3], "counts": [12]}, r"of 3 × 4 pixels \(width × height\), and the image has 4 × 3"),
        ({"size": [3], "counts": [3]}, "expected height and width"),
        ({"size": [3, True], "counts": [3]}, "expected height and width"),
    ],
)
def test_run_lengths_that_are_none(value, message):
    with pytest.raises(ValueError, match=message):
        from_values(value, (3, 4))
    assert run_lengths_fault({"size": [3, 4], "counts": [5, 7]}, (3, 4)) == ""


@pytest.mark.parametrize("orientation", range(1, 9))
def test_run_lengths_turn_as_polygons_do(orientation):
    size = (8, 14)
    polygon = [[1, 1, 9, 1, 9, 3, 4, 3, 4, 7, 1, 7]]
    points = turned_points(orientation, size)
    after = size[::-1] if orientation > 4 else size
    run_lengths = json.dumps(mask_of(json.dumps(polygon), size).values())
    moved = (
        mask_of(moved_segmentation(text, (1.0, 1.0), points), after) for text in (json.dumps(polygon), run_lengths)
    )
    np.testing.assert_array_equal(*(mask.pixels() for mask in moved))


@pytest.fixture(scope="module")
def masked(tmp_path_factory):
    """Return a data set of two photographs with stars of two classes, in one as run lengths, and their polygons."""
    folder, rng, size = tmp_path_factory.mktemp("masks"), np.random.default_rng(2), (41, 67)
    polygons = [star(rng, size) for _ in range(2)]
    made = [Made(f"{k}.png", size, [(n, *bounds(each).tolist()) for n, each in enumerate(polygons)]) for k in range(2)]

    def change(split, document):
        for annotation, polygon in zip(document["annotations"], 2 * polygons, strict=True):
            of_lengths = annotation["image_id"] == 2
            annotation["segmentation"] = mask_of(json.dumps([polygon]), size).values() if of_lengths else [polygon]

    write_coco(folder / "it", {"train": made}, change=change)
    return load("coco_json/it", data_dir=folder / "tfds", source_dir=folder / "it"), polygons


@pytest.mark.parametrize("seed", range(4))
def test_squares_of_boxes_on_a_canvas(masked, seed):
    """Scaled, cut off, and beyond the photograph: each square is of the box that is seen, clipped as that is."""
    dataset, polygons = masked
    rng = np.random.default_rng(seed)
    framing = scaled((64, 53), rng.uniform(0.7, 2.0), tuple(rng.random(2)))
    source = dataset.split("train", Boxes(5, masks=True, mask_side=SIDE))
    assert source.read_shapes["masks"].shape == (5,) and source[0]["masks"][2] == ""
    for index, truth in enumerate(dataset.truths("train")):
        example = source.part(index, framing)
        left, upper, right, lower, height, width = example["placement"][:6].astype(float)
        scale = (right - left) / width  # pixels of the photograph per pixel of the canvas
        assert example["masks"].shape == (5, SIDE, SIDE) and example["masks"].dtype == np.uint8
        assert example["valid"].any() and not example["masks"][~example["valid"]].any()
        for k in np.flatnonzero(example["valid"]):
            box, label, square = (example[name][k] for name in ("boxes", "classes", "masks"))
            x, y = centres(box, SIDE)
            within, near = inside(polygons[label], left + x * scale, upper + y * (lower - upper) / height)
            # Run lengths tell an outline to a pixel of the photograph, polygons to parts of a cell.
            cell = scale * (box[2:] - box[:2]).max() / SIDE
            certain = near > (1.0 if truth.image_id == 2 else 0.3 * cell)
            assert certain.mean() > 0.3
            np.testing.assert_array_equal(square[certain], within[certain])


def test_batches_have_squares_and_padding_has_none(masked):
    source = masked[0].split("train", Boxes(4, masks=True, mask_side=SIDE))
    view = View((48, 72), "fit")
    for held in (source, source.cached()):
        (batch,) = eval_batches(held, batch_size=3, view=view)
        assert batch["masks"].shape == (3, 4, SIDE, SIDE) and batch["mask"].tolist() == [True, True, False]
        assert batch["masks"][:2, :2].any((2, 3)).all() and not batch["masks"][2].any()
        assert not batch["masks"][:, 2:].any()
    assert source.all_targets()["masks"].shape == (2, 4)


def test_data_without_masks_are_refused(tmp_path):
    dataset = load("voc/it", data_dir=tmp_path / "tfds", source_dir=write_voc(tmp_path / "it", photos()))
    some = next(k for k, each in enumerate(dataset.truths("train")) if not each.crowd.all())
    with pytest.raises(DataError, match=rf"example {some} of .*: object \d has no mask, which the network needs"):
        dataset.split("train", Boxes(masks=True))[some]
    box = {"bbox": tfds.features.BBoxFeature(), "label": tfds.features.ClassLabel(num_classes=2)}
    catalogue = tfds.features.FeaturesDict({"image": tfds.features.Image(), "objects": tfds.features.Sequence(box)})
    with pytest.raises(
        DataError, match=r"have boxes and no masks, which .* COCO as the TFDS catalogue has it has none"
    ):
        Boxes(masks=True).reader(catalogue)
    with pytest.raises(ValueError, match="mask_side is 0"):
        Boxes(masks=True, mask_side=0)


def test_objects_without_mask_are_counted_when_prepared(tmp_path):
    def change(split, document):
        document["annotations"][1].update(segmentation=[[1, 2, 3, 4]], iscrowd=0)

    folder = write_coco(tmp_path / "it", photos(3, train=9), change=change)
    dataset = load("coco_json/it", data_dir=tmp_path / "tfds", source_dir=folder)
    with pytest.raises(DataError, match="1 objects of 'train' have no mask, which the network needs: object 102 of"):
        dataset.split("train").annotations.require_masks()


def test_photographs_with_too_many_objects_are_told_before_they_are_read(tmp_path):
    folder = write_coco(tmp_path / "it", photos(3, train=9))
    dataset = load("coco_json/it", data_dir=tmp_path / "tfds", source_dir=folder)
    annotations = dataset.split("train").annotations
    counts = {each.file_name: int((~each.crowd).sum()) for each in annotations.truths()}
    most = max(counts.values())
    assert most > min(counts.values())
    annotations.require_at_most(most)
    (many, *_) = [name for name, count in counts.items() if count == most]
    over = sum(count > most - 1 for count in counts.values())
    words = rf"{over} images of 'train' have more than {most - 1} objects, up to {most} \({many}\): raise task.options"
    with pytest.raises(DataError, match=words):
        annotations.require_at_most(most - 1)
    part = dataset.split("train[:9]", Boxes(most - 1))
    part.annotations.require_at_most(most - 1)  # of a part nothing is known
    with pytest.raises(DataError, match=rf"example \d of .* \({many}\): {most} objects, expected at most {most - 1}"):
        list(part)


def test_of_polygons_those_with_three_points_are_kept(tmp_path):
    size = (20, 30)
    write_image(tmp_path / "it" / "images" / "a.png", Made("a.png", size, []))
    masks = [[[1, 1, 9, 1, 9, 9], [3, 3, 4, 4]], [[2, 2, 8, 2, 5, 2]], {"size": [20, 30], "counts": [10, 40, 550]}]
    masks.append([[-50, -50, 500, -50, 500, 500, -50, 500]])
    document = {
        "images": [{"id": 1, "file_name": "a.png", "height": 20, "width": 30}],
        "categories": [{"id": 4, "name": "ant"}],
        "annotations": [
            {"id": k + 1, "image_id": 1, "category_id": 4, "bbox": [1, 1, 8, 8], "area": 400, "segmentation": mask}
            for k, mask in enumerate(masks)
        ],
    }
    (tmp_path / "it" / "train.json").write_text(json.dumps(document))
    origin = CocoJson("coco_json/it", tmp_path / "it")
    stored = [json.loads(each.segmentation) for each in origin.photos("train")[0].objects]
    assert stored == [masks[0][:1], *masks[1:]]
    noted = "\n".join(origin.notes)
    assert "polygons of fewer than 3 points, left out: 1" in noted and "masks without area: 1" in noted
    assert "areas that are not their masks': 3 (" in noted and "annotation 1: 400, where its mask has 32;" in noted
    assert "annotation 4: 400, where its mask has 302500, and reaches beyond the photograph" in noted


def test_the_mask_of_a_truth_is_named_where_it_lacks():
    one = np.ones(1)
    objects = Objects(np.array([[1.0, 1, 5, 5]]), np.zeros(1, int), np.zeros(1, bool), one, np.array([7]), ("",))
    with pytest.raises(ValueError, match="truths of image 3: object 7: the object has no mask"):
        Truth(3, "", 9, 11, objects).masks()
