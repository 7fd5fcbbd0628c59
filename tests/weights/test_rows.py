import pytest

from aa_flax.weights.rows import CONV, Row, counterpart, fill, match
from aa_flax.weights.tables import _FAMILIES


def test_a_template_reads_numbers_and_writes_them_with_an_offset():
    numbers = match("stage{s}.block{b}.conv{k}", "stage3.block12.conv2")
    assert numbers == {"s": 3, "b": 12, "k": 2}
    assert fill("layer{s}.{b-1}.conv{k+10}", numbers) == "layer3.11.conv12"
    assert match("stage{s}.block{b}.conv{k}", "stage3.block12.conv2.conv") is None
    assert match("bn", "bnx") is None and match("bn", "bn") == {}


def test_only_leaves_of_the_kind_have_a_counterpart():
    table = [Row("stem", "conv1", CONV)]
    assert counterpart(table, "stem.kernel").key == "conv1.weight"
    assert counterpart(table, "stem.scale") is None and counterpart(table, "stern.kernel") is None


@pytest.mark.parametrize("family", _FAMILIES, ids=lambda kind: kind.__name__)
def test_rows_do_not_repeat(family):
    for table in _FAMILIES[family].sources.values():
        assert len({row.ours for row in table}) == len({row.theirs for row in table}) == len(table)
