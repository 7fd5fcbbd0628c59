"""Unpacking of archives on every Python that is supported."""

import tarfile


def unpack(file, folder):
    """Unpack a tar archive into a folder, without files outside it where Python can refuse them: from 3.11.4 on."""
    with tarfile.open(file) as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)
        archive.extractall(folder)
