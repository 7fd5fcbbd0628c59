"""Rows of other networks and seeds, added to a stored table."""

import copy

import pytest

from experiments import compare_report, detector_report

_ORIGIN = dict(command="python compare.py --seeds=0", commit="a" * 12, date="2026-01-01", cores=2)
_RUN = dict(params=7, flops=2e9, data="voc/x", side=[4, 6], epochs=2, examples=5, jax="0.10.2", commit="a" * 12)
_SCORES = dict(AP=0.5, AP50=0.75, train_seconds=60.0)


def measured(models, seeds, ap, **origin):
    runs = [{**_RUN, **_SCORES, "model": model, "seed": seed, "AP": ap} for seed in seeds for model in models]
    pair = dict(first="b", second="a", seeds=list(seeds), difference=0.1, low=0.0, high=0.2)
    return {**_ORIGIN, **origin, "runs": runs, "differences": [pair] if len(models) == 2 else []}


def test_stored_rows_stay_and_new_ones_replace_their_equals():
    stored = measured("ab", [0, 1], 0.5)
    later = measured("ab", [1, 2], 0.25, command="python compare.py --seeds=1,2", date="2026-02-02")
    for run in later["runs"]:
        run["side"] = (4, 6)  # as a config has it; JSON stores lists
    before = copy.deepcopy((stored, later))
    both = compare_report.added(stored, later)
    assert (stored, later) == before
    rows = [(run["model"], run["seed"], run["AP"]) for run in both["runs"]]
    assert rows == [("a", 0, 0.5), ("b", 0, 0.5), ("a", 1, 0.25), ("b", 1, 0.25), ("a", 2, 0.25), ("b", 2, 0.25)]
    assert both["earlier"] == [_ORIGIN] and both["date"] == "2026-02-02"
    assert [each["seeds"] for each in both["differences"]] == [[0, 1], [1, 2]]
    thrice = compare_report.added(both, measured("a", [3], 0.75, date="2026-03-03"))
    assert [each["date"] for each in thrice["earlier"]] == ["2026-01-01", "2026-02-02"]
    assert len(thrice["runs"]) == 7 and len(thrice["differences"]) == 2


def test_the_table_tells_all_origins():
    both = compare_report.added(measured("ab", [0], 0.5), measured("ab", [1], 0.25, date="2026-02-02"))
    table = detector_report.table(both)
    assert "| `a` | 7 | 0.375 | 0.750 | 0.500, 0.250 | 60 |" in table
    assert "2026-01-01 and 2026-02-02" in table and "`python compare.py --seeds=0`" in table
    assert "b less a +0.100 (+0.000 to +0.200, seeds 0); b less a" in table


@pytest.mark.parametrize("change", [{"epochs": 3}, {"params": 8}, {"side": [6, 4]}])
def test_other_trainings_are_no_rows_of_the_table(change):
    later = measured("a", [1], 0.5)
    later["runs"][0] |= change
    with pytest.raises(ValueError, match=f"a, seed 0, is stored with {next(iter(change))} .* not one table"):
        compare_report.added(measured("ab", [0], 0.5), later)
    if "epochs" not in change:  # which must be those of all networks
        later["runs"][0] |= {"model": "c"}
        added = compare_report.added(measured("ab", [0], 0.5), later)
        assert len(added["runs"]) == 3
        assert ("at 4×6 (a, b), 6×4 (c)" if "side" in change else "at 4×6, ") in detector_report.table(added)
