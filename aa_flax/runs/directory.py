"""What a run leaves on disk: enough to resume, evaluate and predict without anything else."""

import contextlib
import dataclasses
import fcntl
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aa_flax.config.moved import under_new_names
from aa_flax.config.schema import MAY_CHANGE_ON_RESUME, Config, ConfigError, DataConfig, flatten, resolve
from aa_flax.data.preprocessing import Preprocessing, seen_by
from aa_flax.runs.checkpoints import saved_steps
from aa_flax.runs.hosts import is_first


class RunDirectoryError(Exception):
    """A folder that is not a usable run directory; the message is one line."""


@dataclasses.dataclass(frozen=True)
class RunDirectory:
    """Paths and small files of a run; `path` may be given as a string."""

    path: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path).expanduser())

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def has_checkpoint(self) -> bool:
        """Whether anything has been saved to its end yet."""
        return bool(saved_steps(self.checkpoints))

    @property
    def result_file(self) -> Path:
        """What the finished run found, as JSON."""
        return self.path / "result.json"

    def read_config(self) -> Config:
        """The resolved config of the run; fields that have come since it began have their defaults.

        Raises:
            RunDirectoryError: no run directory, or one whose config this version does not know.
        """
        file = self.path / "config.json"
        if not file.exists():
            raise RunDirectoryError(f"{self.path} is not a run directory: it has no config.json")
        try:
            return resolve(under_new_names(self._read("config.json")))
        except ConfigError as error:
            raise RunDirectoryError(f"{file}, from another version of aa_flax or damaged: {error}") from None

    def read_preprocessing(self) -> Preprocessing:
        """What the run's network expects of an image."""
        try:
            # Runs of before it was recorded follow from their config.
            return Preprocessing.from_json(seen_by(self.read_config()) | self._read("preprocessing.json"))
        except TypeError as error:
            raise RunDirectoryError(f"{self.path / 'preprocessing.json'}: damaged ({error})") from None

    def read_result(self) -> dict[str, Any] | None:
        """The finished run's result, or None."""
        return self._read("result.json") if self.result_file.exists() else None

    def check(self, config: Config, preprocessing: Preprocessing | None = None) -> None:
        """Whether a run may start or resume here with `config`, on the data of `preprocessing`.

        Raises:
            ConfigError: a run lies here and a field differs that may not change; names old and new values.
        """
        if re.match(r"\w{2,}:/", str(self.path)):
            raise RunDirectoryError(f"{self.path} is no folder; a bucket must be mounted")
        if set(str(self.path.absolute())) & set("[]\\"):
            raise RunDirectoryError(f"{self.path}: checkpoints cannot be read from a path with [, ] or a backslash")
        if not self.has_checkpoint:
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

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes from training here; the lock ends with the process, however it ends.

        Raises:
            RunDirectoryError: another process has it.
        """
        if not is_first():
            yield
            return
        with contextlib.ExitStack() as stack:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                file = stack.enter_context((self.path / ".lock").open("w"))
            except OSError as error:
                raise RunDirectoryError(f"{self.path} cannot be written: {error.strerror}") from error
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunDirectoryError(f"another process is training in {self.path}") from None
            yield

    def begin(self, config: Config, preprocessing: Preprocessing, weights: str = "") -> None:
        """Write down what runs here, after `check`; `weights` is the report on those that it starts from."""
        if not is_first():
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._write(
                "config.json", dataclasses.asdict(dataclasses.replace(config, data=self._portable(config.data)))
            )
            self._write("preprocessing.json", dataclasses.asdict(preprocessing))
            if weights:
                (self.path / "initial_weights.txt").write_text(weights + "\n")
        except OSError as error:
            raise RunDirectoryError(f"{self.path} cannot be written: {error.strerror}") from error

    def write_result(self, result: dict[str, Any]) -> None:
        """Mark the run as finished."""
        self._write("result.json", result)

    def write_failure(self, message: str, bad_steps: list[int]) -> None:
        """Keep what ended a run that diverged; `python -m aa_flax.replay` reads it."""
        if is_first():
            self._write("nonfinite.json", {"message": message, "bad_steps": bad_steps})

    def read_failure(self) -> list[int]:
        """The steps that `write_failure` kept, the last first; [] if the run did not diverge."""
        return self._read("nonfinite.json")["bad_steps"] if (self.path / "nonfinite.json").exists() else []

    @staticmethod
    def _portable(data: DataConfig) -> DataConfig:
        """The run needs the prepared data only, wherever it is used from."""
        absolute = str(Path(data.data_dir).expanduser().absolute()) if data.data_dir else ""
        return dataclasses.replace(data, source_dir="", data_dir=absolute)

    def _read(self, name: str) -> dict[str, Any]:
        try:
            value = json.loads((self.path / name).read_text())
            if not isinstance(value, dict):
                raise ValueError(f"an object was expected, not {type(value).__name__}")
            return value
        except (OSError, ValueError) as error:
            raise RunDirectoryError(f"{self.path / name}: missing or damaged ({error})") from None

    def _write(self, name: str, value: dict[str, Any]) -> None:
        """Replace a file as a whole, so that a reader never meets half of it."""
        temporary = self.path / f".{name}.partial"
        try:
            temporary.write_text(json.dumps(value, indent=1) + "\n")
            temporary.replace(self.path / name)
        except OSError as error:
            raise RunDirectoryError(f"{self.path / name} cannot be written: {error.strerror}") from error
