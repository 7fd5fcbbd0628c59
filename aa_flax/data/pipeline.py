"""Batches of a source, read by Grain: endless and shuffled for training, each example once for evaluation.

The order of the examples and every random draw depend on (seed, epoch, position in the epoch) only. No state is stored:
a run that resumes at global step k asks for the batches from k on. The global order does not depend on the number of
processes: each batch is divided into equal shares, one for each process, after its random numbers are drawn.

Batches are made by threads, not by worker processes, which would outlive a trainer that is killed and do not start in a
notebook.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from aa_flax.data.errors import DataError
from aa_flax.data.placement import resized, unpadded
from aa_flax.data.repeated import Repeated
from aa_flax.data.signals import Whole
from aa_flax.data.source import Source
from aa_flax.data.stacking import Stacked
from aa_flax.data.train_crops import Crop, TrainCrops
from aa_flax.data.train_sizes import Size, size_of_step
from aa_flax.data.view import View
from aa_flax.root_logger import left_alone

with left_alone():
    import grain

Batch = dict[str, np.ndarray]
HostAugment = Callable[[np.ndarray, np.random.Generator], np.ndarray]
"""A function (uint8 [h, w, c], generator) -> uint8 [h, w, c]; each copy of an image has its own random numbers."""


class Batches(Iterator[Batch]):
    """An iterator over batches. Its threads end at `close`, at the end of a `with` block, or when it is deleted."""

    def __init__(self, dataset: grain.MapDataset, num_threads: int | None, prefetch: int | None):
        num_threads = min(16, os.cpu_count() or 1) if num_threads is None else num_threads
        prefetch = num_threads + 2 if prefetch is None else prefetch
        options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=prefetch)
        self._iterator = iter(dataset.to_iter_dataset(options))

    def __next__(self) -> Batch:
        return next(self._iterator)

    def close(self) -> None:
        """End the threads; the iterator gives no further batch."""
        self._iterator.close()

    def __enter__(self) -> "Batches":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_iterator"):
            self._iterator.close()


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
    """Return the number of whole batches in one epoch.

    The remainder, which consists of other examples in each epoch, is left out.

    Raises:
        DataError: a batch has no example, or more than there are.
    """
    if not 1 <= batch_size <= num_examples:
        raise DataError(f"batch_size is {batch_size}, expected 1 to {num_examples}, the number of examples")
    return num_examples // batch_size


def train_batches(
    source: Source,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    image_size: Size | None = None,
    sizes: Sequence[Size] = (),
    crop: Crop = "none",
    crop_padding: int = 4,
    scale_range: tuple[float, ...] = (0.8, 1.2),
    scale_sides: tuple[int, ...] = (),
    most_of_one_class: float = 1.0,
    fill: tuple[int, ...] | None = None,
    augment: HostAugment | None = None,
    repeats: int = 1,
    num_threads: int | None = None,
    prefetch: int | None = None,
    process_index: int = 0,
    process_count: int = 1,
) -> Batches:
    """Return endless shuffled batches from global step `start_step` on.

    Args:
        source: the examples; `source.cached()` makes reading a small data set many times faster.
        batch_size: the number of examples in a batch, over all processes.
        seed: the seed of the order and of the crops; 0 or more.
        start_step: the global step to begin at.
        image_size: (height, width) of the batches; None for the source's own.
        sizes: those of which each batch has one, see `size_of_step`; () is `image_size` alone.
        crop: "none" resizes to `image_size`; "pad" resizes, pads by `crop_padding` and takes a random crop of
            `image_size`, the standard augmentation of CIFAR; "resized" takes a random part of 8 to 100 % of the area
            and resizes it, the standard augmentation of ImageNet; "scaled" scales by a random factor, keeps the aspect,
            takes a random part of what is larger than `image_size` and pads what is smaller, the standard augmentation
            of detection.
        crop_padding: pixels to pad by on each side when crop is "pad".
        scale_range: the least and the largest factor when crop is "scaled"; at 1 the image just fits, or else its sides
            are those of `scale_sides`.
        scale_sides: () or, when crop is "scaled", pixels of the shorter side at factor 1, and the most of the longer
            one: (512, 2048) is the standard of ADE20k.
        most_of_one_class: for images with a label map when crop is "scaled", the part of the labelled pixels of a crop
            that one class may not reach; below 1, up to ten other crops of the same scale are tried, and the last
            is taken if none is so. 0.75 is the standard of ADE20k.
        fill: pixel [c] to pad with when crop is "pad". The recipe pads with zeros after normalisation, which happens
            on the device; the pixel of the mean, `dataset.mean_pixel`, is the same to within half a grey level.
        augment: a function applied to each image after its crop; see `rand_augment` and `three_augment`.
        repeats: copies of each image in a batch, see `repeated`; a divisor of batch_size.
        num_threads: the number of threads, each of which makes whole batches; None for one per core, at most 16; 0 to
            make each batch when it is asked for.
        prefetch: the number of batches held ready; None for two more than there are threads.
        process_index, process_count: which share of each batch this process reads.

    Returns:
        Iterator over {"image": uint8 [batch_size / process_count, h, w, c], "index": int32 [batch_size /
        process_count]} and the targets by name, with "placement" for targets that lie in the image, see `Source.part`;
        close it, or let it go out of scope.

    Raises:
        DataError: more examples in a batch than in the source, or images of several sizes without `image_size`.
        ValueError: an argument outside what is listed here.
    """
    whole_batches = steps_per_epoch(len(source), batch_size) * batch_size
    local = local_batch(batch_size, process_index, process_count)
    if seed < 0 or start_step < 0:
        raise ValueError(f"seed and start_step must be 0 or more, got {seed} and {start_step}")
    if repeats < 1 or batch_size % repeats:
        raise ValueError(f"repeats is {repeats}, expected a divisor of batch_size {batch_size}")
    sizes = [_output_size(source, each) for each in sizes or (image_size,)]
    # Grain adds the epoch to the seed, so that without these words runs with neighbouring seeds would have the same
    # orders, one epoch apart.
    order_seed, crop_seed = (int(word) for word in np.random.SeedSequence(seed).generate_state(2))
    indices = grain.MapDataset.range(len(source)).shuffle(seed=order_seed).slice(slice(0, whole_batches // repeats))
    indices = (Repeated(indices, batch_size, repeats) if repeats > 1 else indices).repeat()
    # Batches are padded when they are put together, unless the padding is augmented too.
    scaling = (scale_range, scale_sides, most_of_one_class)
    crops = TrainCrops(crop, crop_padding, fill, *scaling, with_padding=augment is not None)
    cropped = {size: crops.of(source, size) for size in sizes}

    def drawn(placed: tuple[int, int], rng: np.random.Generator) -> dict[str, Any]:
        step, index = placed
        example = cropped[size_of_step(sizes, seed, step)](index, rng)
        return _arrays(example if augment is None else {**example, "image": augment(example["image"], rng)})

    # Random numbers are drawn before the batch is divided, so that crops do not depend on the number of processes.
    examples = indices.map_with_index(lambda position, index: (position // batch_size, index))
    piece = _ProcessPiece(examples.random_map(drawn, seed=crop_seed), batch_size, local, process_index, start_step)
    size_at = lambda position: size_of_step(sizes, seed, start_step + position)  # noqa: E731
    return Batches(Stacked(piece, local, size_at, source.maps), num_threads, prefetch)


def eval_batches(
    source: Source,
    *,
    batch_size: int,
    view: View | Whole | None = None,
    num_threads: int | None = None,
    prefetch: int | None = None,
    process_index: int = 0,
    process_count: int = 1,
) -> Batches:
    """Return batches with each example once and in order; every process gets the same number of batches.

    Args:
        source: the examples.
        batch_size: the number of examples in a batch, over all processes.
        view: what is seen of each image; None for the images as they are.
        num_threads, prefetch, process_index, process_count: as for `train_batches`.

    Returns:
        Iterator over {"image": uint8 [b, h, w, c], "index": int32 [b], "mask": bool [b]} and the targets by name, with
        "placement" for targets that lie in the image, see `Source.part`; b = batch_size / process_count. Padding at the
        end has mask False, index -1, targets of zeros and a black image.

    Raises:
        DataError: images of several sizes without a `view`.
        ValueError: an argument outside what is listed here.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, expected at least 1")
    local = local_batch(batch_size, process_index, process_count)
    pixels = source.dtype == np.uint8
    view = view or (View if pixels else Whole)(_output_size(source, None))
    padding = {
        "image": np.zeros((*view.size, source.image_shape[-1]), source.dtype),
        # Maps are padded when batches are put together, as images are.
        **{
            name: np.zeros((0, 0) if name in source.maps else target.shape, target.dtype)
            for name, target in source.target_shapes.items()
        },
        "index": np.int32(-1),
        "mask": np.bool_(False),
    }
    if source.placed is not None:
        smallest = resized((1, 1)) if pixels else view.framing
        padding["placement"] = smallest(*(1,) * len(view.size)).as_array()

    def example(position: int) -> dict[str, Any]:
        step, offset = divmod(position, local)
        index = step * batch_size + process_index * local + offset
        if index >= len(source):
            return padding
        seen = source.part(index, unpadded(view.framing), view.interpolation)
        return {**_arrays(seen), "mask": np.bool_(True)}

    steps = -(-len(source) // batch_size)
    examples = grain.MapDataset.range(steps * local).map(example)
    return Batches(Stacked(examples, local, lambda position: view.size, source.maps), num_threads, prefetch)


class _ProcessPiece(grain.MapDataset):
    """The examples that one process reads of the global order: its share of each batch, from batch `start_step` on."""

    def __init__(self, parent: grain.MapDataset, batch_size: int, local: int, process_index: int, start_step: int):
        super().__init__(parent)
        self._batch_size, self._local = batch_size, local
        self._process_index, self._start_step = process_index, start_step

    def __len__(self) -> int:
        return max(0, len(self._parent) // self._batch_size - self._start_step) * self._local

    def __getitem__(self, position: Any) -> Any:
        if isinstance(position, slice):
            return self.slice(position)
        step, offset = divmod(position, self._local)
        return self._parent[(self._start_step + step) * self._batch_size + self._process_index * self._local + offset]


def _arrays(example: dict[str, Any]) -> dict[str, Any]:
    return {**example, "index": np.int32(example["index"])}


def local_batch(batch_size: int, process_index: int, process_count: int) -> int:
    """Return how many examples of a batch one process gets.

    Raises:
        ValueError: process_index is not below process_count, or process_count does not divide batch_size.
    """
    if process_count < 1 or not 0 <= process_index < process_count:
        raise ValueError(f"process_index is {process_index} of process_count {process_count}, expected 0 to count - 1")
    if batch_size % process_count:
        raise ValueError(f"batch_size is {batch_size}, expected a multiple of process_count {process_count}")
    return batch_size // process_count


def _output_size(source: Source, image_size: Size | None) -> Any:
    *own, _ = source.image_shape
    if image_size is None:
        if None in own:
            raise DataError(f"{source.name}: images differ in size, so their size must be given")
        return tuple(own)
    if len(image_size) != len(own) or min(image_size) < 1:
        expected = "(height, width)" if len(own) == 2 else f"{len(own)} sides"
        raise ValueError(f"image_size is {image_size}, expected {expected} or None")
    return image_size
