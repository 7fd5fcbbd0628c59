"""Photographs a second and core that the input of detection delivers, beside what Pillow takes only to decode them.

    python -m experiments.benchmarks.detection_input --name=coco_json/mine --source_dir=FOLDER

The input is that of training: photographs in a shuffled order are decoded, scaled by 0.8 to 1.2, cut and padded to a
canvas of 640×640, and their boxes move along (`data.crop` "scaled"). Decoding alone is Pillow's, of the same files from
memory, one after the other. Both take turns in one run, in one thread; what counts is processor time, and the median of
the ratios of neighbouring turns; it is measured several times, and the median of these is told. `fast_decode` is
measured where its two packages are installed.
"""

import argparse
import io
import statistics
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

from PIL import Image

from aa_flax import data
from aa_flax.data.boxes import Boxes
from experiments.benchmarks import results

CANVAS, BATCH, BATCHES, EXAMPLES = (640, 640), 16, 6, 100_000
HAS_FAST = find_spec("simplejpeg") is not None and find_spec("cykooz_resizer") is not None


def main() -> None:
    """Measure each way of decoding on each data set, and store the results."""
    arguments = parse()
    names, folders = arguments.name or ["bccd_subset"], arguments.source_dir or [""]
    if len(folders) != len(names):
        raise SystemExit(f"--source_dir={folders}: expected one for each of {', '.join(names)}")
    sets = []
    for name, folder in zip(names, folders, strict=True):
        dataset = data.load(name, data_dir=arguments.data_dir, source_dir=folder)
        sets.append({"name": name, **of_data_set(dataset, arguments)})
    given = [f"--name={name}" for name in names] + ["--source_dir=FOLDER" for folder in folders if folder]
    given += [f"--split={arguments.split}", f"--rounds={arguments.rounds}", f"--repeats={arguments.repeats}"]
    packages = ["grain", "array_record", "pillow", *(["simplejpeg", "cykooz-resizer"] if HAS_FAST else [])]
    found = {**results.origin("detection_input", given), "canvas": list(CANVAS)}
    results.store({**found, "packages": {p: version(p) for p in packages}, "sets": sets}, arguments.output)


def parse() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = results.flags(__doc__, "detection_input_cpu.json")
    parser.add_argument("--name", action="append", help="data set with boxes, bccd_subset by default; may be repeated")
    parser.add_argument("--source_dir", action="append", help="folder with the files of each --name, in their order")
    parser.add_argument("--data_dir", default="", help="folder of prepared data")
    parser.add_argument("--split", default="train")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--repeats", type=int, default=3, help="measurements, of so many rounds each")
    return parser.parse_args()


def of_data_set(dataset: data.Dataset, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what the photographs of a split are, and a row for each way of decoding: medians, and each ratio."""
    encoded = _encoded(dataset, arguments.split)
    rows = []
    for fast in (False, True) if HAS_FAST else (False,):
        source = dataset.split(arguments.split, Boxes(), fast_decode=fast)
        measured = [measure(source, encoded, arguments.rounds) for _ in range(arguments.repeats)]
        row: dict[str, Any] = {name: statistics.median(each[name] for each in measured) for name in measured[0]}
        rows.append({"fast_decode": fast, **row, "ratios": [each["ratio"] for each in measured]})
        print(dataset.name, rows[-1], flush=True)
    kilobytes = round(statistics.mean(map(len, encoded)) / 1000)
    sizes = sorted({_size(each) for each in encoded})
    return {"photographs": len(encoded), "sizes": sizes[:5], "kilobytes": kilobytes, "rows": rows}


class Many(data.Source):
    """The photographs of another source over and over, `EXAMPLES` of them: an order of few is slow to draw."""

    def __init__(self, source: data.Source):
        self.name, self.image_shape, self.target_shapes = source.name, source.image_shape, source.target_shapes
        self.read_shapes, self.placed, self._source = source.read_shapes, source.placed, source

    def __len__(self) -> int:
        return EXAMPLES

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._source[index % len(self._source)]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        return [self[index] for index in indices]

    def part(self, index: int, *arguments: Any) -> dict[str, Any]:
        return self._source.part(index % len(self._source), *arguments)

    def cached(self) -> data.Source:
        return self


def measure(source: data.Source, encoded: list[bytes], rounds: int) -> dict[str, float]:
    """Return the processor's milliseconds for a photograph of both, and the median ratio, decoding over input."""
    with data.train_batches(
        Many(source), batch_size=BATCH, seed=0, image_size=CANVAS, crop="scaled", num_threads=0
    ) as batches:

        def delivered() -> int:
            return sum(len(next(batches)["image"]) for _ in range(BATCHES))

        def decoded() -> int:
            for each in encoded:
                with Image.open(io.BytesIO(each)) as image:
                    image.convert("RGB")
            return len(encoded)

        delivered(), decoded()
        pairs = [(_cost(decoded), _cost(delivered)) for _ in range(rounds)]
    alone, ours = (statistics.median(times) for times in zip(*pairs, strict=True))
    return {
        "decode_ms": round(1000 * alone, 3),
        "input_ms": round(1000 * ours, 3),
        "ratio": round(statistics.median(one / other for one, other in pairs), 3),
    }


def _cost(work: Callable[[], int]) -> float:
    """Return the seconds of processor time that each photograph took."""
    started = time.process_time()
    count = work()
    return (time.process_time() - started) / count


def _encoded(dataset: data.Dataset, split: str) -> list[bytes]:
    source = dataset.split(split, Boxes())
    return [source.encoded(index) for index in range(len(source))]


def _size(encoded: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(encoded)) as image:
        return image.size


if __name__ == "__main__":
    main()
