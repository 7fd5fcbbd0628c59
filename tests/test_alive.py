"""Signs of life: a line where work is slow, and silence where it is not."""

import threading
import time

from aa_flax.alive import told_if_slow


def test_only_slow_work_is_told(capsys):
    with told_if_slow("quick", 60):
        pass
    before = threading.active_count()
    with told_if_slow("slow", 0.01):
        time.sleep(0.3)
    printed = capsys.readouterr()
    assert printed.err == "slow\n" and printed.out == ""
    assert threading.active_count() == before
