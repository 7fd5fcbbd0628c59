import pytest

from aa_flax.layers import attention_depths


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        # (out, kappa, upsilon, heads[, minimum[, rounding]]) -> (key, value)
        ((160, 0.2, 0.1, 8), (160, 16)),  # Wide-ResNet-28-10, stage 1: the minimum of 20 per head wins
        ((320, 0.2, 0.1, 8), (160, 32)),
        ((640, 0.2, 0.1, 8), (160, 64)),
        ((128, 0.2, 0.1, 8), (160, 8)),  # ResNet-50: 12.8 floors to 8 (Table 9)
        ((256, 0.2, 0.1, 8), (160, 24)),
        ((512, 0.2, 0.1, 8), (160, 48)),
        ((512, 1.0, 1.0, 8), (512, 512)),  # fully attentional
        ((72, 0.1, 0.05, 4, 0, "nearest"), (4, 4)),  # MnasNet: 7.2 floors to 4; 3.6 goes to 4
        ((72, 0.1, 0.05, 4, 0, "floor"), (4, 0)),
        ((10, 0.5, 0.5, 2, 0, "nearest"), (4, 6)),  # 2.5 heads' worth of values: halves go up
        ((100, 0.29, 0.57, 1, 0), (29, 57)),  # 0.29 * 100 is 28.999... and 0.57 * 100 is 56.99... in binary
        ((10, 0.7, 0.1, 1, 0), (7, 1)),
        ((7, 1.0, 1.0, 2, 0, "nearest"), (6, 6)),  # never more values than channels
        ((16, 0.2, 0.0, 8), (160, 0)),
    ],
)
def test_rounding(arguments, expected):
    assert attention_depths(*arguments) == expected


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"upsilon": 1.1}, r"upsilon, .* must lie in \[0, 1\], got 1.1"),
        ({"upsilon": -0.1}, r"upsilon, .* must lie in \[0, 1\], got -0.1"),
        ({"kappa": -0.1}, "kappa, .* must be finite and at least 0, got -0.1"),
        ({"kappa": float("nan")}, "kappa, .* must be finite and at least 0, got nan"),
        ({"num_heads": 0}, "num_heads must be at least 1"),
        ({"value_rounding": "ceil"}, "value_rounding must be one of .* got 'ceil'"),
    ],
)
@pytest.mark.usefixtures("unchecked_shapes")
def test_errors(change, words):
    arguments = {"out_features": 16, "kappa": 0.2, "upsilon": 0.1, "num_heads": 8, **change}
    with pytest.raises(ValueError, match=words):
        attention_depths(**arguments)
