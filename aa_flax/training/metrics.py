"""The log of a run: JSON lines for programs, TensorBoard events for people."""

import json
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter

TIMING = ("images_per_second", "seconds")
"""The keys of a row that depend on the machine; all others are reproduced by a resumed run bit for bit."""


class MetricsLog:
    """`metrics.jsonl`, one object a line, and TensorBoard events beside it.

    Opening the log of a run that resumes at `step` removes rows of later steps and a torn last line, so that the file
    ends up as an uninterrupted run's.
    """

    def __init__(self, workdir: Path, step: int) -> None:
        self.file = workdir / "metrics.jsonl"
        rows = [row for row in read_metrics(self.file) if row["step"] <= step]
        self.file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        self._events = SummaryWriter(str(workdir), purge_step=step + 1 if step else None)

    def write(self, step: int, split: str, **values: Any) -> None:
        """Add one row; numbers also go to TensorBoard as `split/name`."""
        with self.file.open("a") as f:
            f.write(json.dumps({"step": step, "split": split, **values}) + "\n")
        for name, value in values.items():
            self._events.add_scalar(f"{split}/{name}", value, step)

    def close(self) -> None:
        """Flush the events."""
        self._events.close()


def read_metrics(file: Path) -> list[dict[str, Any]]:
    """All whole rows of a `metrics.jsonl`; a torn last line is left out."""
    rows = []
    for line in file.read_text().splitlines() if file.exists() else []:
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            break
        if not isinstance(row, dict) or "step" not in row:
            break
        rows.append(row)
    return rows
