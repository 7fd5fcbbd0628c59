"""What a run leaves on disk: enough to resume, evaluate and predict without anything else."""

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aa_flax.config.moved import under_new_names
from aa_flax.config.schema import MAY_CHANGE_ON_RESUME, Config, ConfigError, DataConfig, flatten, resolve
from aa_flax.data.preprocessing import Preprocessing, seen_by
from aa_flax.json_values import from_json, to_json
from aa_flax.runs.birth import foreign, is_run, lost, mark, read_mark
from aa_flax.runs.buckets.bucket_path import BucketPath
from aa_flax.runs.buckets.lease import Lease
from aa_flax.runs.buckets.store import BucketError
from aa_flax.runs.checkpoint_files import saved_steps
from aa_flax.runs.durable import write_durably
from aa_flax.runs.errors import RunDirectoryError
from aa_flax.runs.hold import Hold, locked_on_disk
from aa_flax.runs.hosts import first_says, is_first
from aa_flax.runs.paths import RunPath, run_path


@dataclasses.dataclass(frozen=True, init=False)
class RunDirectory:
    """The directory of a run: its paths and small files.

    `path` may be given as a string, and is made absolute, so that it stays the same folder when the process goes to
    another one; gs://BUCKET/PATH is a folder of a bucket.
    """

    path: RunPath

    def __init__(self, path: RunPath | str) -> None:
        object.__setattr__(self, "path", path)
        self.__post_init__()

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", run_path(self.path))

    @property
    def checkpoints(self) -> RunPath:
        """The folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def has_checkpoint(self) -> bool:
        """Whether any checkpoint has been saved completely."""
        return bool(saved_steps(self.checkpoints))

    @property
    def log(self) -> RunPath:
        """The rows of the run's log, as `aa_flax.runs.metrics.read_metrics` reads them."""
        return self.path / "metrics.jsonl"

    @property
    def result_file(self) -> RunPath:
        """The JSON file with the result of the finished run."""
        return self.path / "result.json"

    def read_config(self) -> Config:
        """Return the resolved config of the run; fields that are newer than the run have their defaults.

        Raises:
            RunDirectoryError: it is no run directory, or this version cannot read its config.
        """
        file = self.path / "config.json"
        if not file.exists():
            raise RunDirectoryError(f"{self.path} is not a run directory: it has no config.json")
        try:
            return resolve(under_new_names(self._read("config.json")))
        except ConfigError as error:
            raise RunDirectoryError(f"{file}, from another version of aa_flax or damaged: {error}") from None

    def read_preprocessing(self) -> Preprocessing:
        """Return the preprocessing that the run's network expects.

        Raises:
            RunDirectoryError: a file of it is missing or damaged.
        """
        before = seen_by(self.read_config())  # what old runs did not record
        try:
            found = Preprocessing.from_json(before | self._read("preprocessing.json"))
            found.view()  # raises for a size or a filter that is none
        except (TypeError, ValueError) as error:
            raise RunDirectoryError(f"{self.path / 'preprocessing.json'}: damaged ({error})") from None
        return found

    def read_result(self) -> dict[str, Any] | None:
        """Return the result of the finished run, or None if it is not finished.

        Raises:
            RunDirectoryError: the file is damaged, for example empty after a power cut.
        """
        try:
            return self._read("result.json") if self.result_file.exists() else None
        except RunDirectoryError as error:
            raise RunDirectoryError(f"{error}; without it the same command of train makes it again") from None

    def check(self, config: Config, preprocessing: Preprocessing | None = None) -> None:
        """Check that a run may start or resume here with `config`, on the data of `preprocessing`.

        Raises:
            ConfigError: the directory holds a run, and a field differs that may not change.
            RunDirectoryError: the path is no usable folder, holds something else than a run, or a run that cannot be
                read.
        """
        try:
            os.fsencode(str(self.path)).decode()
        except UnicodeDecodeError:
            raise RunDirectoryError(f"{self.path}: checkpoints cannot be written to a path that is no UTF-8") from None
        if set(str(self.path)) & set("[]\\"):
            raise RunDirectoryError(f"{self.path}: checkpoints cannot be read from a path with [, ] or a backslash")
        names = foreign(self.path) if is_first() and not is_run(self.path) else []
        if first_says(bool(names)):
            shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "") or "what process 0 says"
            raise RunDirectoryError(
                f"{self.path} is no run directory and not empty: it has {shown}; choose another directory for the run"
            )
        if not self.has_checkpoint and not self.result_file.exists():
            return  # nothing that a change could spoil
        old, new = flatten(self.read_config()), flatten(config)
        changed = [name for name in old if old[name] != new[name] and name not in MAY_CHANGE_ON_RESUME]
        if changed:
            differences = ", ".join(f"{name} was {old[name]!r} and is now {new[name]!r}" for name in changed)
            raise ConfigError(f"{self.path} holds a run with another config: {differences}; use another workdir")
        if preprocessing is not None and preprocessing != self.read_preprocessing():
            seen, now = dataclasses.asdict(self.read_preprocessing()), dataclasses.asdict(preprocessing)
            changed = [name for name in seen if seen[name] != now[name]]
            raise ConfigError(f"{self.path} holds a run on other data: {', '.join(changed)} changed")

    def read_mark(self) -> dict[str, Any]:
        """Return what the marker of the run says besides that it is one; {} where there is none."""
        return read_mark(self.path)

    def mark(self, **more: Any) -> None:
        """Mark the directory as that of a run, in the first process.

        Args:
            more: what else the marker is to say, in values that JSON can keep, such as `saved=True` of a run that has a
                checkpoint.

        Raises:
            RunDirectoryError: the directory cannot be written.
        """
        if is_first():
            try:
                mark(self.path, **more)
            except OSError as error:
                raise RunDirectoryError(f"{self.path} cannot be written: {error.strerror}") from error

    def require_nothing_lost(self) -> None:
        """Check that a run without a usable checkpoint may begin at its first step; all processes must call this.

        Raises:
            RunDirectoryError: it had a checkpoint or has a result; the message says how to start over.
        """
        words = lost(self.path) if is_first() else ""
        if first_says(bool(words)):
            raise RunDirectoryError(words or f"{self.path} cannot start over; process 0 says why")

    @contextlib.contextmanager
    def locked(self) -> Iterator[Hold]:
        """Keep other processes from training here while open; yield what can be asked whether that still holds.

        On a disk the lock ends with the process, however it ends; in a bucket it ends a time after a process that was
        killed, and it may be lost.

        Raises:
            RunDirectoryError: another process holds the lock, or the directory cannot be written.
        """
        if not is_first():
            yield Hold()
            return
        held = Lease(self.path).held() if isinstance(self.path, BucketPath) else locked_on_disk(self.path)
        with held as hold:
            yield hold

    @contextlib.contextmanager
    def folder(self, name: str = "") -> Iterator[Path]:
        """Yield a folder on a disk whose files lie in the run directory, or in its folder `name`, when this is closed.

        It is for libraries that write to disks only. A folder of the run itself is created; for a bucket the files go
        through a temporary one, and those that were written are sent when this is closed, after an error too.
        """
        place = self.path / name if name else self.path
        if isinstance(place, Path):
            place.mkdir(parents=True, exist_ok=True)
            yield place
            return
        with tempfile.TemporaryDirectory(prefix="aa_flax-") as temporary:
            try:
                yield Path(temporary)
            finally:
                for file in sorted(Path(temporary).rglob("*")):
                    if file.is_file():
                        (place / str(file.relative_to(temporary))).write_bytes(file.read_bytes())

    def begin(self, config: Config, preprocessing: Preprocessing, weights: str = "") -> None:
        """Write the files that describe the run, after `check`; `weights` reports on the weights that it starts from.

        Raises:
            RunDirectoryError: the directory cannot be written.
        """
        if not is_first():
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._write(
                "config.json", dataclasses.asdict(dataclasses.replace(config, data=self._portable(config.data)))
            )
            self._write("preprocessing.json", dataclasses.asdict(preprocessing))
            if weights:
                (self.path / "initial_weights.txt").write_text(weights + "\n", "utf-8", "surrogateescape")
        except OSError as error:
            raise RunDirectoryError(f"{self.path} cannot be written: {error.strerror}") from error

    def write_result(self, result: dict[str, Any]) -> None:
        """Write the result of the run, which marks it as finished."""
        self._write("result.json", result)

    def write_failure(self, message: str, bad_steps: list[int]) -> None:
        """Keep what ended a run that diverged; `python -m aa_flax.replay` reads it."""
        if is_first():
            self._write("nonfinite.json", {"message": message, "bad_steps": bad_steps})

    def read_failure(self) -> list[int]:
        """Return the steps that `write_failure` kept, the last first; [] if the run did not diverge."""
        return self._read("nonfinite.json")["bad_steps"] if (self.path / "nonfinite.json").exists() else []

    @staticmethod
    def _portable(data: DataConfig) -> DataConfig:
        """Return the options of the prepared data with absolute paths: all that the run needs, wherever it is used."""
        absolute = str(Path(data.data_dir).expanduser().absolute()) if data.data_dir else ""
        return dataclasses.replace(data, source_dir="", data_dir=absolute)

    def _read(self, name: str) -> dict[str, Any]:
        try:
            value = from_json((self.path / name).read_text())
            if not isinstance(value, dict):
                raise ValueError(f"an object was expected, not {type(value).__name__}")
            return value
        except BucketError:
            raise
        except (OSError, ValueError) as error:
            raise RunDirectoryError(f"{self.path / name}: missing or damaged ({error})") from None

    def _write(self, name: str, value: dict[str, Any]) -> None:
        """Replace a file as a whole, so that a reader never finds half of it."""
        try:
            write_durably(self.path / name, to_json(value, indent=1) + "\n", self.path / f".{name}.partial")
        except OSError as error:
            raise RunDirectoryError(f"{self.path / name} cannot be written: {error.strerror}") from error
