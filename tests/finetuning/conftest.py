import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def flowers(tmp_path):
    """Return a folder of three classes whose colours tell them apart: 12, 8 and 3 photographs."""
    rng = np.random.default_rng(7)
    for name, count, color in (("daisy", 12, (210, 210, 60)), ("rose", 8, (200, 30, 60)), ("iris", 3, (60, 40, 200))):
        (tmp_path / "flowers" / name).mkdir(parents=True)
        for number in range(count):
            pixels = np.clip(rng.normal(color, 20, (38, 44, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "flowers" / name / f"{number}.png")
    return tmp_path / "flowers"
