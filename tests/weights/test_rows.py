import numpy as np
import pytest

from aa_flax.weights.rows import CONV, LOGIT, Row, counterpart, fill, match
from aa_flax.weights.tables import _FAMILIES, _TOKEN_PER_CLASS


def test_a_template_reads_numbers_and_writes_them_with_an_offset():
    numbers = match("stage{s}.block{b}.conv{k}", "stage3.block12.conv2")
    assert numbers == {"s": 3, "b": 12, "k": 2}
    assert fill("layer{s}.{b-1}.conv{k+10}", numbers) == "layer3.11.conv12"
    assert match("stage{s}.block{b}.conv{k}", "stage3.block12.conv2.conv") is None
    assert match("bn", "bnx") is None and match("bn", "bn") == {}


def test_only_leaves_of_the_kind_have_a_counterpart():
    table = [Row("stem", "conv1", CONV)]
    assert counterpart(table, "stem.kernel", (3, 3, 5, 7)).keys == ("conv1.weight",)
    assert counterpart(table, "stem.scale", (7,)) is None and counterpart(table, "stern.kernel", (7,)) is None


def test_a_stack_has_a_key_for_each_of_its_parts():
    table = [Row("trunk{k}.blocks", "blocks{k}.{n}.conv", CONV, axis=0)]
    found = counterpart(table, "trunk3.blocks.kernel", (2, 3, 3, 5, 7))
    assert found.keys == ("blocks3.0.conv.weight", "blocks3.1.conv.weight")
    assert found.beyond == "blocks3.2.conv.weight" and found.shape((2, 3, 3, 5, 7)) == (7, 5, 3, 3)
    array = np.random.default_rng(0).normal(size=(2, 3, 3, 5, 7))
    theirs = found.to_theirs(array)
    np.testing.assert_array_equal(theirs["blocks3.1.conv.weight"], array[1].transpose(3, 2, 0, 1))
    np.testing.assert_array_equal(found.to_ours([*theirs.values()]), array)
    logits = counterpart([Row("head", "head.{n}", LOGIT, axis=-1)], "head.kernel", (5, 3))
    assert logits.keys[2] == "head.2.weight" and logits.shape((5, 3)) == (1, 5)
    kernel = array[0, 0, :, :, 0].T
    np.testing.assert_array_equal(logits.to_theirs(kernel)["head.1.weight"], kernel[None, :, 1])


@pytest.mark.parametrize("family", [*_FAMILIES.items(), *_TOKEN_PER_CLASS.items()], ids=lambda item: item[0].__name__)
def test_rows_do_not_repeat(family):
    for table in family[1].sources.values():
        ours = [(row.ours, name) for row in table for name in row.kind]
        theirs = [(row.theirs, leaf.name) for row in table for leaf in row.kind.values()]
        assert len(set(ours)) == len(set(theirs)) == len(ours)
