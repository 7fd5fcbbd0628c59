import pytest
from flax import nnx

from aa_flax.models import create_model

TINY = dict(depth=10, widen_factor=1, num_classes=7, image_size=(8, 10), in_channels=2)
AUGMENTED = dict(num_heads=2, kappa=0.5, upsilon=0.25, min_key_depth_per_head=3, attention_downsample=(2, 1, 1))


@pytest.fixture
def tiny():
    """Return a function that builds a tiny Wide-ResNet: WRN-10-1 for 8×10 images of two channels and seven classes."""

    def build(kind, **changes):
        own = {"aa_": AUGMENTED, "se_": {"reduction": 4}}.get(kind, {})
        options = {**TINY, **own, "rngs": nnx.Rngs(0), **changes}
        return create_model(f"{kind}wide_resnet28_10", **options)

    return build
