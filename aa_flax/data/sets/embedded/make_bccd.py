"""Make the embedded subset of BCCD from its folders of XML and JPEGs.

    python -m aa_flax.data.sets.embedded.make_bccd FOLDER_OF_BCCD [OUTPUT_FOLDER]

The subset has 48 photographs of BCCD's train and 16 of its test, the first by the SHA-256 of (seed, name). They are
scaled from 640 × 480 to 320 × 240 pixels, and their boxes with them; boxes without area are left out. SHA256SUMS has a
line for each file; another Pillow may encode the same photographs to other bytes.
"""

import hashlib
import io
import shutil
import sys
from pathlib import Path
from typing import Any

from PIL import Image

from aa_flax.data.sets.annotations import Annotation, Photo
from aa_flax.data.sets.moved import moved_box
from aa_flax.data.sets.voc import Voc
from aa_flax.json_values import to_json

SEED = 2019
CHOSEN = {"train": 48, "test": 16}
SIZE = 320, 240  # width, height
QUALITY = 90
CHECKSUMS = "SHA256SUMS"
_INFO = {
    "description": "A subset of BCCD, scaled to half its width and height",
    "url": "https://github.com/Shenggan/BCCD_Dataset",
    "contributor": "shenggan",
    "year": 2017,
}


def chosen(photos: list[Photo], count: int) -> list[Photo]:
    """Return `count` photographs in the order of their names, chosen by the hashes of these."""
    mixed = sorted(photos, key=lambda photo: hashlib.sha256(f"{SEED} {photo.name}".encode()).digest())
    return sorted(mixed[:count], key=lambda photo: photo.name)


def make(bccd: Path, output: Path) -> None:
    """Write the subset into `output`: two files of COCO's JSON, `images`, the licence and the checksums."""
    read = Voc("voc/bccd", bccd)
    (output / "images").mkdir(parents=True, exist_ok=True)
    categories = [{"id": number, "name": name} for number, name in zip(*read.categories(), strict=True)]
    for split, count in CHOSEN.items():
        images, annotations = [], []
        for photo in chosen(read.photos(split), count):
            number = int("".join(filter(str.isdigit, photo.name)))
            (output / "images" / photo.name).write_bytes(scaled(photo.path))
            images.append({"id": number, "file_name": photo.name, "width": SIZE[0], "height": SIZE[1]})
            annotations += [_annotation(photo, each, number) for each in photo.objects]
        for index, annotation in enumerate(annotations, 1):
            annotation["id"] = index
        document = {
            "info": _INFO,
            "licenses": [{"id": 1, "name": "MIT License", "url": f"{_INFO['url']}/blob/master/LICENSE"}],
            "categories": categories,
            "images": images,
            "annotations": annotations,
        }
        (output / f"{split}.json").write_text(to_json(document) + "\n")
    shutil.copyfile(bccd / "LICENSE", output / "LICENSE")
    files = sorted(path for path in output.rglob("*") if path.is_file() and path.name != CHECKSUMS)
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(output).as_posix()}" for path in files]
    (output / CHECKSUMS).write_text("\n".join(sums) + "\n")


def scaled(photograph: Path) -> bytes:
    """Return a photograph as a JPEG of the subset's size."""
    buffer = io.BytesIO()
    with Image.open(photograph) as image:
        picture = image.convert("RGB").resize(SIZE, Image.Resampling.LANCZOS)
    picture.save(buffer, "jpeg", quality=QUALITY, optimize=True)
    return buffer.getvalue()


def _annotation(photo: Photo, each: Annotation, image_id: int) -> dict[str, Any]:
    assert photo.size is not None
    height, width = photo.size
    x1, y1, x2, y2 = moved_box(each.box, (SIZE[0] / width, SIZE[1] / height))
    box = [x1, y1, x2 - x1, y2 - y1]
    return {
        "id": 0,
        "image_id": image_id,
        "category_id": each.label + 1,
        "bbox": box,
        "area": box[2] * box[3],
        "iscrowd": 0,
    }


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    make(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) == 3 else Path(__file__).parent / "bccd")
