"""Parts for the tests of the runner: `python parts_that.py WHAT FOLDER`."""

import subprocess
import sys
import time
from pathlib import Path

from experiments.benchmarks.gpu.record import Record


def main(what: str, folder: Path) -> None:
    """Work, fail, hang or write without end, as `what` says."""
    if what == "work":
        Record(folder / "work.json").put(done=True)
    elif what == "fail":
        Record(folder / "fail.json").put(before=1)
        raise SystemExit("the reason why")
    elif what == "hang":
        # A child in a session of its own, which no signal to the process group reaches, and which ignores SIGTERM.
        code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(600)"
        child = subprocess.Popen([sys.executable, "-c", code], start_new_session=True, stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()
        (folder / "child").write_text(str(child.pid))
        time.sleep(600)
    elif what == "write":
        record = Record(folder / "write.json", "section")
        for number in range(1 << 30):
            record.put(first=number, filling="x" * 200_000, last=number)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
