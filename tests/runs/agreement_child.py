"""One of several processes that exchange values and agree, and print one line for each result.

Usage: agreement_child.py FOLDER, in which files are written
"""

import sys
import threading
from pathlib import Path

import jax

from aa_flax.runs.hosts import Meeting, first_says, join, prove_equal, prove_shared
from aa_flax.training import ConfigError

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    join(10)
    index = jax.process_index()
    print("first says", first_says(0.25 + index), first_says(bool(index)), first_says(7 - index))
    prove_equal({"config": "same", "data": "same"})
    for check in (
        lambda: prove_equal({"config": "same", "data": f"fingerprint {index}", "size": index}),
        lambda: prove_shared(folder / str(index)),
    ):
        try:
            check()
        except ConfigError as error:
            print(error)
    (folder / "shared").mkdir(exist_ok=True)
    prove_shared(folder / "shared")
    meeting = Meeting()
    print("called", meeting.called())
    jax.experimental.multihost_utils.sync_global_devices("asked")
    print("left", list((folder / "shared").iterdir()))
    if index == 1:
        meeting.call()
    jax.experimental.multihost_utils.sync_global_devices("called")
    print("called", meeting.called())
    for _ in range(10 + index):
        assert not meeting.over()
    jax.experimental.multihost_utils.sync_global_devices("at 10 and 11")
    thread = threading.Thread(target=meeting.answer, args=(20,))
    thread.start()
    moment = 11 + index
    while not meeting.over():
        moment += 1
    thread.join()
    print("agreed", moment)
