"""Make a small data set of masks: shapes cut out of photographs, pasted on parts of other photographs.

    python -m experiments.shapes.make_shapes --source_dir=COCO --out=FOLDER

COCO has COCO's JSON and photographs, or a part of them: instances_SPLIT.json, in it or in annotations/, and
SPLIT/*.jpg for train2017 and val2017. Its annotations are not read. FOLDER gets images and COCO's JSON of both splits,
with the polygon of each shape, to be read as coco_json/NAME, and ATTRIBUTION.md with the licences of the photographs
that are in them. No two shapes cover the same pixel, though their boxes overlap: all of a polygon is seen.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from aa_flax.json_values import to_json

SIZE = 128, 160
"""Height and width of the images."""
SHAPES_OF_AN_IMAGE = 2, 5
RADII = 13, 34
"""Of the circle around a shape, in pixels."""
_FINER = 4  # drawn pixels per pixel, for edges between pixels
_TRIES = 60  # places that are tried for a shape
_TEXTURES = 8  # parts of photographs of which the one that stands out most is taken
_MARGIN = 2  # pixels from a shape to the border


def _around(corners: int, inner: float = 1.0) -> np.ndarray:
    """Return corners [n, 2] on the circle of radius 1, every second one at the radius `inner`."""
    angles = 2 * np.pi * np.arange(corners) / corners
    radii = np.where(np.arange(corners) % 2, inner, 1.0)
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], 1)


_ARM = np.array([(0.93, -0.36), (0.93, 0.36), (0.36, 0.36)])
SHAPES = {
    "disc": _around(48),
    "square": _around(4),
    "triangle": _around(3),
    "star": _around(10, 0.45),
    "cross": np.concatenate([_ARM, _ARM[:, ::-1] * (-1, 1), -_ARM, _ARM[:, ::-1] * (1, -1)]),
}
"""Corners of each class's outline around (0, 0)."""


@dataclass(frozen=True)
class Photo:
    """A photograph of COCO: its pixels, and what COCO's JSON says of it."""

    pixels: np.ndarray
    entry: dict[str, Any]

    def part(self, size: tuple[int, int], scale: float, rng: np.random.Generator) -> np.ndarray:
        """Return a random part of (height, width), of the photograph made so many times smaller."""
        height, width = self.pixels.shape[:2]
        scale = min(scale, height / size[0], width / size[1])
        tall, wide = size[0] * scale, size[1] * scale
        top, left = rng.uniform(0, height - tall), rng.uniform(0, width - wide)
        box = left, top, left + wide, top + tall
        return np.asarray(Image.fromarray(self.pixels).resize(size[::-1], Image.Resampling.BICUBIC, box))


def annotations(folder: Path, split: str) -> Path:
    """Return COCO's JSON of a split."""
    files = folder / f"instances_{split}.json", folder / f"annotations/instances_{split}.json"
    for path in files:
        if path.is_file():
            return path
    raise SystemExit(f"{folder}: expected instances_{split}.json in it or in annotations/")


def read_photos(folder: Path, split: str) -> list[Photo]:
    """Return the photographs of a split of COCO that are there, in colour."""
    path = annotations(folder, split)
    photos = []
    for entry in json.loads(path.read_bytes())["images"]:
        image = folder / split / entry["file_name"]
        if image.is_file():
            photos.append(Photo(np.asarray(Image.open(image).convert("RGB")), entry))
    if len(photos) < 2:
        raise SystemExit(f"{folder / split}: expected two photographs or more, found {len(photos)}")
    return photos


def coverage(outline: np.ndarray) -> np.ndarray:
    """Return how much of each pixel of an image a polygon [n, 2] covers, from 0 to 1."""
    canvas = Image.new("L", (SIZE[1] * _FINER, SIZE[0] * _FINER))
    # Pillow's pixels have their centres at whole numbers.
    ImageDraw.Draw(canvas).polygon([tuple(corner) for corner in outline * _FINER - 0.5], fill=255)
    pixels = np.asarray(canvas, np.float64) / 255
    return pixels.reshape(SIZE[0], _FINER, SIZE[1], _FINER).mean((1, 3))


def place(kind: str, taken: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
    """Return an outline of a shape that covers no pixel that is taken, of random size and turn; None if none fits."""
    for _ in range(_TRIES):
        turn, radius = rng.uniform(0, 2 * np.pi), rng.uniform(*RADII)
        turned = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        outline = radius * (SHAPES[kind] @ turned)
        low, high = outline.min(0), outline.max(0)
        corner = rng.uniform(_MARGIN - low, np.array(SIZE[::-1]) - _MARGIN - high)
        outline = outline + corner
        if not (taken & (coverage(outline) > 0)).any():
            return outline
    return None


def standing_out(parts: Sequence[np.ndarray], background: np.ndarray, cover: np.ndarray) -> int:
    """Return which part of a photograph differs most in colour from the pixels that it would lie on."""
    inside = cover > 0.5
    mean = background[inside].mean(0)
    return int(np.argmax([np.linalg.norm(part[inside].mean(0) - mean) for part in parts]))


def make_image(
    photos: Sequence[Photo], rng: np.random.Generator
) -> tuple[np.ndarray, list[tuple[str, np.ndarray]], set]:
    """Return an image, its shapes' names and outlines, and the ids of the photographs in it."""
    order = rng.permutation(len(photos))
    ground = photos[order[0]]
    pixels, used = ground.part(SIZE, rng.uniform(1.5, 3), rng).astype(np.float64), {ground.entry["id"]}
    taken, shapes = np.zeros(SIZE, bool), []
    for _ in range(rng.integers(SHAPES_OF_AN_IMAGE[0], SHAPES_OF_AN_IMAGE[1] + 1)):
        kind = str(rng.choice([*SHAPES]))
        outline = place(kind, taken, rng)
        if outline is None:
            continue
        cover = coverage(outline)
        chosen = [photos[k] for k in rng.choice(order[1:], _TEXTURES)]
        parts = [each.part(SIZE, rng.uniform(1, 3), rng) for each in chosen]
        best = standing_out(parts, pixels, cover)
        pixels += cover[..., None] * (parts[best] - pixels)
        used.add(chosen[best].entry["id"])
        taken |= cover > 0
        shapes.append((kind, outline))
    return pixels.round().astype(np.uint8), shapes, used


def annotation(number: int, image: int, kind: str, outline: np.ndarray) -> dict[str, Any]:
    """Return COCO's annotation of a shape."""
    outline = outline.round(2)
    (left, top), (right, bottom) = outline.min(0), outline.max(0)
    x, y = outline.T
    return {
        "id": number,
        "image_id": image,
        "category_id": [*SHAPES].index(kind) + 1,
        "segmentation": [outline.reshape(-1).tolist()],
        "area": round(abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2, 3),
        "bbox": [round(float(value), 2) for value in (left, top, right - left, bottom - top)],
        "iscrowd": 0,
    }


def write_split(out: Path, split: str, photos: Sequence[Photo], count: int, rng: np.random.Generator) -> set[int]:
    """Write the images of a split and its JSON; return the ids of the photographs in them."""
    images: list[dict[str, Any]] = []
    outlines: list[dict[str, Any]] = []
    every: set[int] = set()
    (out / split).mkdir(parents=True, exist_ok=True)
    for number in range(1, count + 1):
        pixels, shapes, used = make_image(photos, rng)
        name = f"{split}{number:04}.png"
        Image.fromarray(pixels).save(out / split / name)
        images.append(
            {"id": number, "file_name": name, "height": SIZE[0], "width": SIZE[1], "photographs": sorted(used)}
        )
        for kind, outline in shapes:
            outlines.append(annotation(len(outlines) + 1, number, kind, outline))
        every |= used
    categories = [{"id": number, "name": name} for number, name in enumerate(SHAPES, 1)]
    document = {"images": images, "annotations": outlines, "categories": categories}
    (out / f"{split}.json").write_text(to_json(document))
    return every


def attribution(photos: Sequence[Photo], licenses: dict[int, dict[str, Any]]) -> str:
    """Return the lines that name the photographs in the images, and their licences."""
    lines = [
        "The images are made of parts of these photographs of COCO (https://cocodataset.org), cut, scaled and pasted:"
    ]
    for photo in photos:
        license_ = licenses.get(photo.entry.get("license", 0), {})
        page = photo.entry.get("flickr_url", photo.entry["file_name"])
        lines.append(f"* {page}: {license_.get('name', 'licence not said')}, {license_.get('url', '')}")
    return "\n".join(lines) + "\n"


def make(source: Path, out: Path, counts: dict[str, int], seed: int) -> None:
    """Write the data set; each split is made of the photographs of COCO's split alone."""
    lines: list[str] = []
    for split, count in counts.items():
        photos = read_photos(source, f"{split}2017")
        used = write_split(out, split, photos, count, np.random.default_rng([seed, len(lines)]))
        document = json.loads(annotations(source, f"{split}2017").read_bytes())
        licenses = {each["id"]: each for each in document.get("licenses", [])}
        lines.append(attribution([each for each in photos if each.entry["id"] in used], licenses))
    (out / "ATTRIBUTION.md").write_text("\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source_dir", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--train", type=int, default=32, help="images to learn")
    parser.add_argument("--val", type=int, default=16, help="images of other photographs")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    counts = {"train": given.train, "val": given.val}
    make(given.source_dir, given.out, counts, given.seed)
    print(f"{given.out}: {', '.join(f'{split} {count}' for split, count in counts.items())} images, ATTRIBUTION.md")


if __name__ == "__main__":
    main()
