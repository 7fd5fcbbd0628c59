"""The input pipeline of ImageNet's training by tf.data: TFRecords, random resized crops, uint8 batches."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf


def write(images: Iterable[tuple[bytes, int]], file: Path) -> None:
    """Write encoded images and their labels as one TFRecord file, with TFDS's names of fields."""
    with tf.io.TFRecordWriter(str(file)) as writer:
        for encoded, label in images:
            features = {
                "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[encoded])),
                "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
            }
            writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())


def batches(file: Path, *, batch_size: int, side: int, threads: int, antialias: bool) -> Iterator[Any]:
    """Return endless shuffled batches, made on `threads` threads.

    Only the crop is decoded (`decode_and_crop_jpeg`). With `antialias` the resize averages when it shrinks, as our own
    does; without it each pixel is interpolated from four, which is faster and usual in tf.data.
    """
    spec = {"image": tf.io.FixedLenFeature([], tf.string), "label": tf.io.FixedLenFeature([], tf.int64)}

    def example(serialized: Any) -> Any:
        parsed = tf.io.parse_single_example(serialized, spec)
        begin, extent, _ = tf.image.sample_distorted_bounding_box(
            tf.io.extract_jpeg_shape(parsed["image"]),
            tf.zeros([0, 0, 4]),
            area_range=(0.08, 1.0),
            aspect_ratio_range=(3 / 4, 4 / 3),
            max_attempts=10,
            min_object_covered=0.0,
            use_image_if_no_bounding_boxes=True,
        )
        window = tf.stack([begin[0], begin[1], extent[0], extent[1]])
        pixels = tf.io.decode_and_crop_jpeg(parsed["image"], window, channels=3)
        pixels = tf.image.resize(pixels, (side, side), antialias=antialias)
        return {"image": tf.cast(tf.round(pixels), tf.uint8), "label": tf.cast(parsed["label"], tf.int32)}

    options = tf.data.Options()
    options.threading.private_threadpool_size = threads
    data = tf.data.TFRecordDataset([str(file)]).repeat().shuffle(1024, seed=0)
    data = data.map(example, num_parallel_calls=threads).batch(batch_size, drop_remainder=True).prefetch(2)
    return data.with_options(options).as_numpy_iterator()


def version() -> str:
    """Return the version of TensorFlow."""
    return tf.__version__
