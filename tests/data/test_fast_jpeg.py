import io
import threading

import numpy as np
import pytest
from PIL import Image

from aa_flax.data import DataError, fast_jpeg
from aa_flax.data.images import decode_part
from aa_flax.data.placement import resized
from aa_flax.data.record_source import RecordSource

simplejpeg = pytest.importorskip("simplejpeg")
pytest.importorskip("cykooz_resizer")

SUBSAMPLINGS = {"4:4:4": 0, "4:2:2": 1, "4:2:0": 2}


def photo(rng, height, width):
    """Return an image with soft shapes and some noise, as photographs have."""
    coarse = Image.fromarray(rng.integers(0, 256, (9, 11, 3), np.uint8)).resize((width, height), Image.BICUBIC)
    return np.clip(np.asarray(coarse, int) + rng.integers(-12, 13, (height, width, 3)), 0, 255).astype(np.uint8)


def jpeg(pixels, **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "jpeg", **{"quality": 90, **options})
    return buffer.getvalue()


def window(height, width):
    return 0.1 * width, 0.23 * height, 0.7 * width, 0.61 * height


def apart(encoded, channels, size, window=None):
    """Return the largest and the mean difference from Pillow's pixels, in grey levels."""
    ours, whole = fast_jpeg.decode_part_fast(encoded, channels, resized(size, window))
    theirs, whole_by_pillow = decode_part(encoded, channels, resized(size, window))
    assert whole == whole_by_pillow and ours.shape == theirs.shape == (*size, channels) and ours.dtype == np.uint8
    difference = np.abs(ours.astype(int) - theirs)
    return difference.max(), difference.mean()


@pytest.mark.parametrize("part", [None, window])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("options", [*({"subsampling": s} for s in SUBSAMPLINGS.values()), {"progressive": True}])
def test_nearly_the_same_pixels(rng, options, channels, part):
    encoded = jpeg(photo(rng, 203, 301), **options)
    repeated = channels == 3 and options.get("subsampling", 2) > 0  # chroma repeats, which shifts colours at edges
    for size in ((110, 160), (120, 301), (203, 301)):
        largest, mean = apart(encoded, channels, size, part)
        assert largest <= (30 if repeated else 2) and mean < (2 if repeated else 0.3)


def test_wherever_the_part_ends(rng):
    encoded = jpeg(photo(rng, 67, 59), subsampling=0)
    for lower in range(2, 68):
        assert apart(encoded, 3, (9, 31), lambda height, width, end=lower: (3.0, 0.0, 50.0, float(end)))[0] <= 1


@pytest.mark.parametrize(("reduction", "factor"), [(0.5, 1), (1.99, 1), (2, 2), (3.9, 2), (4, 4), (8, 8), (50, 8)])
def test_factor(reduction, factor):
    assert fast_jpeg._factor(float(reduction)) == factor


@pytest.mark.parametrize("part", [None, window])
@pytest.mark.parametrize("shape", [(640, 480), (643, 481)])
def test_decoded_smaller_it_stays_close(rng, shape, part):
    encoded = jpeg(photo(rng, *shape), subsampling=2)
    for size in ((112, 120), (60, 56), (30, 25)):
        largest, mean = apart(encoded, 3, size, part)
        # The low-pass filter differs; a shift by half a pixel would differ by more.
        assert largest <= 12 and mean < 1.5


def test_fewer_rows_are_decoded(rng):
    encoded = jpeg(photo(rng, 203, 301), subsampling=2)
    shortened, rows = fast_jpeg._without_rows_below(encoded, 203, 34)
    assert rows == 48  # row 33 lies in the third row of 16
    with Image.open(io.BytesIO(shortened)) as image:
        assert image.size == (301, 48)
    for subsampling in SUBSAMPLINGS.values():
        encoded = jpeg(photo(rng, 203, 301), subsampling=subsampling)
        whole = simplejpeg.decode_jpeg(encoded, fastupsample=True)
        for lower in (1, 40, 41, 100, 192, 193, 203):
            shortened, rows = fast_jpeg._without_rows_below(encoded, 203, lower)
            part = simplejpeg.decode_jpeg(shortened, fastupsample=True, strict=False)
            assert lower <= rows == len(part)
            np.testing.assert_array_equal(part, whole[:rows])
    encoded = jpeg(photo(rng, 203, 301), subsampling=2)
    for kept in (encoded, jpeg(photo(rng, 203, 301), progressive=True)):
        assert fast_jpeg._without_rows_below(kept, 203, 200 if kept is encoded else 9) == (kept, 203)


def test_grey_and_other_files(rng):
    pixels = photo(rng, 64, 80)
    png = io.BytesIO()
    Image.fromarray(pixels).save(png, "png")
    cmyk = io.BytesIO()
    Image.fromarray(pixels).convert("CMYK").save(cmyk, "jpeg", quality=90)
    for encoded, channels in ((jpeg(pixels[..., 0]), 1), (jpeg(pixels[..., 0]), 3), (png.getvalue(), 3)):
        assert apart(encoded, channels, (20, 30), window)[0] <= 1
    assert apart(cmyk.getvalue(), 3, (20, 30), window) == (0, 0)


def test_damaged_files_are_told_by_pillow(rng):
    encoded = jpeg(photo(rng, 64, 80))
    for damaged in (b"", b"no image", encoded[:100], encoded[: len(encoded) // 2]):
        with pytest.raises((OSError, ValueError, SyntaxError)):
            fast_jpeg.decode_part_fast(damaged, 3, resized((20, 30)))


def test_threads(rng):
    encoded = [jpeg(photo(rng, 90 + i, 120)) for i in range(4)]
    expected = [fast_jpeg.decode_part_fast(each, 3, resized((50, 60), window))[0] for each in encoded]
    wrong = []

    def work(i):
        for _ in range(30):
            pixels, _ = fast_jpeg.decode_part_fast(encoded[i], 3, resized((50, 60), window))
            wrong.extend([i] if (pixels != expected[i]).any() else [])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_source_uses_it_for_parts(embedded, monkeypatch):
    calls = []
    monkeypatch.setattr(
        "aa_flax.data.record_source.decode_part_fast", lambda *a, **k: calls.append(1) or decode_part(*a, **k)
    )
    source = embedded.split("test", fast_decode=True)
    assert isinstance(source, RecordSource)
    source.part(3, resized((9, 9), window)), source[3], embedded.split("test").part(3, resized((9, 9)))
    assert calls == [1]
    monkeypatch.setattr(fast_jpeg.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r'needs simplejpeg and cykooz-resizer: pip install "aa_flax\[fast\]"'):
        embedded.split("test", fast_decode=True)
