"""Images per second and core that the input pipeline of ImageNet's training delivers, ours beside tf.data.

    python -m experiments.benchmarks.input_pipeline --source_dir=FOLDER

FOLDER holds JPEG files, in folders or tar archives at any depth. They are stored as records twice, as they are and with
a shorter side of 256 as `python -m aa_flax.data shrink` makes it, and repeated until there are 4,096. Then all inputs
take turns in one run: shuffled random resized crops at 224, batches of 64, on as many threads as there are cores. Each
turn opens its input anew, warms up, and takes 16 batches; ratios are of neighbouring turns, and their median is kept.
Processor time is measured beside wall-clock time, which other work on the machine changes more.

tf.data is measured where TensorFlow is installed; our fast_decode where its two packages are. A last comparison shows
whether worker processes are faster than threads: as many processes as cores, one thread each, passing on no images.
"""

import argparse
import functools
import itertools
import multiprocessing
import os
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from aa_flax.data import train_batches
from aa_flax.data.prepared import open_prepared
from aa_flax.data.record_source import RecordSource
from aa_flax.data.sets.builder import Example, Origin
from aa_flax.data.sets.own import prepare
from aa_flax.data.shrink import Shrunk
from experiments.benchmarks import results

RECORDS, BATCH, SIDE, SHORT_SIDE = 4096, 64, 224, 256
_WARM_UP, _MEASURED = 8, 16  # batches; the first few come out of buffers
_LEAST_ROUNDS = 3
HAS_TENSORFLOW = find_spec("tensorflow") is not None
HAS_FAST = find_spec("simplejpeg") is not None and find_spec("cykooz_resizer") is not None


class Photos(Origin):
    """JPEG files, repeated until there are `RECORDS`."""

    homepage, image_shape, encoding, class_names, files = "", (None, None, 3), "jpeg", ["photo"], []

    def __init__(self, name: str, images: list[bytes]):
        self.stored_name, self.description, self.images = name, name, images

    def checksums(self) -> dict[str, str]:
        return {}

    def splits(self) -> Mapping[str, Iterator[Example]]:
        return {"train": ((image, 0) for image in itertools.islice(itertools.cycle(self.images), RECORDS))}


@dataclass(frozen=True)
class Turn:
    """What one turn delivered."""

    images: int
    seconds: float
    cpu_seconds: float


def main() -> None:
    """Measure every input on every set of records, and store the results."""
    arguments = parse()
    threads = arguments.threads
    print(f"{threads} threads; batches of {BATCH}, {SIDE}x{SIDE}", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        stored = store(arguments.source_dir, Path(scratch))
        rows = [{"records": name, **row} for name, data in stored.items() for row in measure(data, threads, arguments)]
        workers = compare_workers(next(iter(stored.values()))["folder"], threads)
    for row in rows:
        print(line(row), flush=True)
    found = results.origin("input_pipeline", ["--source_dir=FOLDER", *passed_on(arguments)])
    result = {**found, "threads": threads, "packages": packages(), "rows": rows}
    result |= {"threads_and_workers": workers}
    print(f"threads against workers: {workers}")
    results.store(result, arguments.output)


def parse() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = results.flags(__doc__, "input_pipeline_cpu.json")
    parser.add_argument("--source_dir", type=Path, required=True, help="folder with JPEG files")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=120, help="no new round of a set of records after so long")
    return parser.parse_args()


def passed_on(arguments: argparse.Namespace) -> list[str]:
    """Return the arguments that change what is measured."""
    return [f"--{name}={getattr(arguments, name)}" for name in ("threads", "rounds", "seconds")]


def packages() -> dict[str, str]:
    """Return the versions of the packages that read and decode."""
    names = ["grain", "array_record", "pillow", "tensorflow-datasets"]
    names += ["simplejpeg", "cykooz-resizer"] if HAS_FAST else []
    return {name: version(name) for name in [*names, *(["tensorflow"] if HAS_TENSORFLOW else [])]}


def jpegs(folder: Path) -> dict[str, list[bytes]]:
    """Return the JPEG files under a folder, by the name of their archive or sub-folder."""
    found: dict[str, list[bytes]] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".tar":
            with tarfile.open(path) as archive:
                members = [member for member in archive.getmembers() if member.name.lower().endswith((".jpg", ".jpeg"))]
                if members:
                    files = (archive.extractfile(member) for member in sorted(members, key=lambda m: m.name))
                    found[path.stem] = [file.read() for file in files if file is not None]
        elif path.suffix.lower() in (".jpg", ".jpeg"):
            found.setdefault(path.relative_to(folder).parts[0], []).append(path.read_bytes())
    if not found:
        raise SystemExit(f"--source_dir={folder}: no JPEG file, and no tar archive of any")
    return found


def store(source_dir: Path, scratch: Path) -> dict[str, dict[str, Path]]:
    """Store each set of photographs as records, as they are and smaller; return the folders and TFRecord files."""
    stored = {}
    for name, images in jpegs(source_dir).items():
        as_stored = prepare(Photos(f"photos_{name}", images), scratch)
        smaller = prepare(Shrunk(as_stored, SHORT_SIDE, 95), scratch)
        for label, folder in ((f"{name}, as stored", as_stored), (f"{name}, shorter side {SHORT_SIDE}", smaller)):
            stored[label] = {"folder": folder}
            if HAS_TENSORFLOW:
                from experiments.benchmarks import tf_data

                source, file = open_source(folder), folder / "train.tfrecord"
                records = (source.record(index) for index in range(len(source)))
                tf_data.write(((bytes(record["image"]), int(record["label"])) for record in records), file)
                stored[label]["tfrecord"] = file
    return stored


def open_source(folder: Path, fast_decode: bool = False) -> RecordSource:
    """Return the source of a prepared folder's records."""
    return RecordSource(open_prepared(folder), "train", fast_decode=fast_decode)


def inputs(data: Mapping[str, Path], threads: int) -> dict[str, Callable[[], Any]]:
    """Return, by name, functions that open an endless iterator over batches."""

    def ours(fast_decode: bool) -> Callable[[], Any]:
        source = open_source(data["folder"], fast_decode)
        options: dict[str, Any] = {"batch_size": BATCH, "image_size": (SIDE, SIDE), "crop": "resized"}
        return lambda: train_batches(source, seed=0, num_threads=threads, **options)

    found = {"aa_flax": ours(False)}
    if HAS_FAST:
        found["aa_flax, fast_decode"] = ours(True)
    if HAS_TENSORFLOW:
        from experiments.benchmarks import tf_data

        for name, antialias in (("tf.data", False), ("tf.data, antialiased", True)):
            options: dict[str, Any] = {"batch_size": BATCH, "side": SIDE, "threads": threads, "antialias": antialias}
            found[name] = functools.partial(tf_data.batches, data["tfrecord"], **options)
    return found


def measure(data: Mapping[str, Path], threads: int, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield a row for each input."""
    opened = inputs(data, threads)
    turns: dict[str, list[Turn]] = {name: [] for name in opened}
    started = time.perf_counter()
    for index in range(arguments.rounds):
        if index >= _LEAST_ROUNDS and time.perf_counter() - started > arguments.seconds:
            break
        for name in list(opened)[:: -1 if index % 2 else 1]:
            turns[name].append(take(opened[name]()))
    for name, own in turns.items():
        row: dict[str, Any] = {
            "input": name,
            "images_per_second_and_core": rounded(turn.images / turn.seconds / threads for turn in own),
            "images_per_cpu_second": rounded(turn.images / turn.cpu_seconds for turn in own),
        }
        for other in ("tf.data", "tf.data, antialiased"):
            if other in turns and name.startswith("aa_flax"):
                pairs = list(zip(own, turns[other], strict=True))
                row[f"to {other}"] = rounded((b.seconds / a.seconds for a, b in pairs), 2)
                row[f"to {other}, by cpu time"] = rounded((b.cpu_seconds / a.cpu_seconds for a, b in pairs), 2)
        yield {**row, "rounds": len(own)}


def take(batches: Any) -> Turn:
    """Warm up, take batches and end the threads; return what was delivered."""
    for _ in range(_WARM_UP):
        batch = next(batches)
    assert batch["image"].shape == (BATCH, SIDE, SIDE, 3) and batch["image"].dtype == "uint8"
    started, cpu_started = time.perf_counter(), time.process_time()
    for _ in range(_MEASURED):
        next(batches)
    turn = Turn(_MEASURED * BATCH, time.perf_counter() - started, time.process_time() - cpu_started)
    if hasattr(batches, "close"):
        batches.close()
    return turn


def compare_workers(folder: Path, count: int) -> dict[str, Any]:
    """Return images per second of one process with a thread for each core, and of a process for each core, in turns."""
    fast = HAS_FAST
    context = multiprocessing.get_context("spawn")
    found: dict[str, list[float]] = {"threads": [], "workers": []}
    for _ in range(_LEAST_ROUNDS):
        for name, processes, threads in (("threads", 1, count), ("workers", count, 1)):
            barrier, results = context.Barrier(processes), context.Queue()
            arguments = (folder, fast, threads, count // processes, barrier, results)
            started = [context.Process(target=_deliver, args=arguments) for _ in range(processes)]
            for process in started:
                process.start()
            found[name].append(sum(results.get(timeout=600) for _ in started))
            for process in started:
                process.join()
    ratios = [workers / threads for workers, threads in zip(found["workers"], found["threads"], strict=True)]
    medians = {f"{name}_images_per_second": rounded(values) for name, values in found.items()}
    return {**medians, "workers_to_threads": rounded(ratios, 2), "fast_decode": fast, "rounds": _LEAST_ROUNDS}


def _deliver(folder: Path, fast: bool, threads: int, share: int, barrier: Any, results: Any) -> None:
    """Measure, in a process of its own, the images per second that it delivers while all others deliver too."""
    options: dict[str, Any] = {"batch_size": BATCH, "image_size": (SIDE, SIDE), "crop": "resized"}
    with train_batches(open_source(folder, fast), seed=0, num_threads=threads, **options) as batches:
        for _ in range(_WARM_UP):
            next(batches)
        barrier.wait()
        started = time.perf_counter()
        for _ in range(_MEASURED * share):
            next(batches)
        results.put(_MEASURED * share * BATCH / (time.perf_counter() - started))


def rounded(values: Any, digits: int = 0) -> float:
    """Return the median, rounded to `digits` decimals."""
    return round(statistics.median(values), digits or None)


def line(row: Mapping[str, Any]) -> str:
    """Return a row as a line of text."""
    ratios = ", ".join(f"{value:.2f} {name}" for name, value in row.items() if name.startswith("to "))
    speed = f"{row['images_per_second_and_core']:6,} images/s and core, {row['images_per_cpu_second']:6,} a CPU second"
    return f"{row['records']:34s} {row['input']:22s} {speed}{'; ' if ratios else ''}{ratios}"


if __name__ == "__main__":
    main()
