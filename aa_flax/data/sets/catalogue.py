"""Preparing a data set of the TFDS catalogue as ArrayRecord; needs the extra `prepare`, which brings TensorFlow.

This does what `tfds build NAME --file_format=array_record` does; that command, in TFDS 4.9.10, needs Apache Beam.
"""

import importlib.util
from pathlib import Path

import tensorflow_datasets as tfds

from aa_flax.data.errors import DataError


def prepare_from_catalogue(name: str, data_dir: Path, manual_dir: str | Path = "") -> Path:
    """Download a data set, prepare it with TFDS's own progress bars, and return its folder.

    Args:
        name: `name[/config][:version]` of the TFDS catalogue.
        data_dir: the folder of prepared data.
        manual_dir: folder with the files that TFDS may not download, such as ImageNet's two archives.

    Raises:
        DataError: TensorFlow is missing, the name is unknown, or TFDS failed for another reason.
    """
    if importlib.util.find_spec("tensorflow") is None:
        raise DataError(f'{name}: preparing from the TFDS catalogue needs TensorFlow: pip install "aa_flax[prepare]"')
    folder = str(Path(manual_dir).expanduser().absolute()) if manual_dir else None
    try:
        builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
        config = tfds.download.DownloadConfig(manual_dir=folder, try_download_gcs=False)
        builder.download_and_prepare(download_config=config)
    # Each data set has its own code, which may raise any type.
    except Exception as error:
        message = " ".join(f"{type(error).__name__}: {error}".split())[:600]
        raise DataError(f"{name}: TFDS could not prepare it in {data_dir} ({message})") from None
    return Path(builder.data_dir)
