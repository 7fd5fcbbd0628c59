"""Paths in buckets, with the part of `pathlib.Path` that a run needs."""

import dataclasses
import errno
import importlib.util
import os
import posixpath
from collections.abc import Iterator

from aa_flax.runs.buckets.google_store import GoogleStore
from aa_flax.runs.buckets.store import BucketError, Object, Store

SCHEME = "gs://"

_stores: dict[str, Store] = {}  # of this process, by the bucket's name


@dataclasses.dataclass(frozen=True, order=True)
class BucketPath:
    """The path of an object or of a folder in a bucket, such as gs://bucket/runs/one.

    A folder is there as long as an object has a name below it.

    Attributes:
        bucket: its name.
        key: the path in it, without slashes at its ends.
    """

    bucket: str
    key: str = ""

    @classmethod
    def of(cls, url: str) -> "BucketPath":
        """Return the path of a URL; raise BucketError if it names no bucket."""
        bucket, _, key = url.removeprefix(SCHEME).partition("/")
        if not url.startswith(SCHEME) or not bucket:
            raise BucketError(f"{url}: expected gs://BUCKET/PATH", errno.EINVAL)
        key = posixpath.normpath(key.strip("/")).strip("/") if key.strip("/") else ""
        if key.split("/")[0] == "..":
            raise BucketError(f"{url}: leads out of the bucket", errno.EINVAL)
        return cls(bucket, key)

    @property
    def store(self) -> Store:
        """The bucket itself, opened at the first use."""
        return store_of(self.bucket)

    def __truediv__(self, name: str) -> "BucketPath":
        return dataclasses.replace(self, key=f"{self.key}/{name}".strip("/"))

    def __str__(self) -> str:
        return f"{SCHEME}{self.bucket}/{self.key}".rstrip("/")

    @property
    def name(self) -> str:
        """The last part."""
        return posixpath.basename(self.key)

    @property
    def suffix(self) -> str:
        """The end of the name from its last dot on."""
        return posixpath.splitext(self.name)[1]

    @property
    def parent(self) -> "BucketPath":
        """The folder that this lies in."""
        return dataclasses.replace(self, key=posixpath.dirname(self.key))

    def is_file(self) -> bool:
        """Return whether there is such an object."""
        return self.store.look(self.key)[0] is not None

    def is_dir(self) -> bool:
        """Return whether there is an object below this path."""
        return any(self.store.list(self._prefix, deep=False))

    def exists(self) -> bool:
        """Return whether there is such an object or folder."""
        return self.is_file() or self.is_dir()

    def iterdir(self) -> Iterator["BucketPath"]:
        """Yield what lies in this folder."""
        objects, folders = self.store.list(self._prefix, deep=False)
        for name in sorted([each.name for each in objects] + folders):
            if name != self._prefix:  # an object that other programs make to show a folder
                yield BucketPath(self.bucket, name.strip("/"))

    def objects(self) -> dict[str, Object]:
        """Return the objects below this folder by their names relative to it."""
        found = self.store.list(self._prefix)[0]
        return {each.name.removeprefix(self._prefix): each for each in found if not each.name.endswith("/")}

    def read_bytes(self) -> bytes:
        """Return the content."""
        return self.store.read(self.key)

    def read_text(self) -> str:
        """Return the content as UTF-8."""
        return self.read_bytes().decode()

    def write_bytes(self, content: bytes) -> None:
        """Replace the content as a whole."""
        self.store.write(self.key, content)

    def write_text(self, text: str, encoding: str = "utf-8", errors: str = "strict") -> None:
        """Replace the content as a whole."""
        self.write_bytes(text.encode(encoding, errors))

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
        """Do nothing: a folder is there as soon as something is in it."""

    def unlink(self, missing_ok: bool = True) -> None:
        """Delete the object."""
        self.store.delete(self.key)

    @property
    def _prefix(self) -> str:
        return f"{self.key}/" if self.key else ""


def store_of(bucket: str) -> Store:
    """Return a bucket, opened once in a process.

    Raises:
        BucketError: a package is missing, or there are no credentials.
    """
    if bucket not in _stores:
        _stores[bucket] = _opened(bucket)
    return _stores[bucket]


def _opened(bucket: str) -> Store:
    missing = [name for name in ("gcsfs", "requests", "google.auth") if not _is_installed(name)]
    if missing:
        raise BucketError(f"gs://{bucket}: {missing[0]} is not installed; the extra gcs brings it", errno.ENOSYS)
    _prepare_other_libraries()
    return GoogleStore(bucket)


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def _prepare_other_libraries() -> None:
    """Have Orbax and JAX read buckets through gcsfs, which must not remember what this library changes meanwhile."""
    import fsspec.config

    os.environ.setdefault("EPATH_USE_TF", "false")  # TensorFlow's wheels have no Cloud Storage in them any more
    fsspec.config.conf.setdefault("gcs", {}).setdefault("use_listings_cache", False)
