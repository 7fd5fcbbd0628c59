import numpy as np
import pytest
from PIL import Image

from aa_flax.data.photo import PhotoError, as_photo, load_photo, photo_files, read_photo


def save(array, file, **options):
    Image.fromarray(array).save(file, **options)
    return file


def test_exact_size_is_read_as_it_is(rng, tmp_path):
    grey = rng.integers(0, 256, (5, 7), np.uint8)
    file = save(grey, tmp_path / "grey.png")
    np.testing.assert_array_equal(load_photo(file, (5, 7), 1)[..., 0], grey)
    colour = load_photo(file, (5, 7), 3)
    assert colour.shape == (5, 7, 3) and (colour == grey[..., None]).all()


def test_colour_becomes_luma_for_a_grey_network(rng, tmp_path):
    rgb = rng.integers(0, 256, (5, 7, 3), np.uint8)
    found = load_photo(save(rgb, tmp_path / "rgb.png"), (5, 7), 1)[..., 0]
    np.testing.assert_allclose(found, rgb @ [0.299, 0.587, 0.114], atol=1)


def test_exif_rotation_is_applied(tmp_path):
    picture = np.zeros((6, 10, 3), np.uint8)
    picture[:, :5] = 255  # left half white
    image = Image.fromarray(picture)
    exif = image.getexif()
    exif[0x0112] = 6  # to be turned a quarter clockwise: left becomes top
    image.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    found = load_photo(tmp_path / "turned.jpg", (10, 6), 1)[..., 0]
    assert found[:4].min() > 240 and found[6:].max() < 15


def test_transparency_is_composited_over_white(tmp_path):
    rgba = np.zeros((4, 6, 4), np.uint8)
    rgba[:, 3:, 3] = 255  # right half opaque black, left half transparent black
    found = load_photo(save(rgba, tmp_path / "alpha.png"), (4, 6), 3)
    assert (found[:, :3] == 255).all() and (found[:, 3:] == 0).all()
    palette = Image.fromarray(np.repeat([[0, 0, 0, 1, 1, 1]], 4, 0).astype(np.uint8), "P")
    palette.putpalette([0, 0, 0, 0, 0, 0])
    palette.save(tmp_path / "palette.png", transparency=0)
    found = load_photo(tmp_path / "palette.png", (4, 6), 3)
    assert (found[:, :3] == 255).all() and (found[:, 3:] == 0).all()


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    values = np.array([[0, 257, 128 * 257], [65535, 300, 65534]], np.uint16)
    found = load_photo(save(values, tmp_path / "deep.png"), (2, 3), 1)[..., 0]
    np.testing.assert_array_equal(found, [[0, 1, 128], [255, 1, 255]])


def test_other_sizes_are_cropped_to_the_aspect_and_averaged(tmp_path):
    picture = np.zeros((40, 80), np.uint8)
    picture[:, 20:60] = np.tile([0, 200], 20)[None]  # the centred square: stripes that average to 100
    found = load_photo(save(picture, tmp_path / "wide.png"), (5, 5), 1)[..., 0]
    assert found.shape == (5, 5)
    np.testing.assert_allclose(found[:, 1:4], 100, atol=2)  # the outer columns average fewer stripes


@pytest.mark.parametrize("channels", [1, 3])
def test_cmyk_jpeg(tmp_path, channels):
    Image.new("CMYK", (8, 6), (0, 0, 0, 0)).save(tmp_path / "print.jpg")
    assert (load_photo(tmp_path / "print.jpg", (6, 8), channels) > 250).all()


def test_errors_name_the_file(rng, tmp_path):
    with pytest.raises(PhotoError, match=r"missing\.png: no such file"):
        load_photo(tmp_path / "missing.png", (4, 4), 1)
    (tmp_path / "text.png").write_text("not an image")
    with pytest.raises(PhotoError, match=r"text\.png: not an image that can be read"):
        load_photo(tmp_path / "text.png", (4, 4), 1)
    whole = save(rng.integers(0, 256, (64, 64, 3), np.uint8), tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "torn.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PhotoError, match=r"torn\.jpg: cannot be decoded"):
        load_photo(tmp_path / "torn.jpg", (4, 4), 1)
    with (tmp_path / "film.mp4").open("wb") as film:
        film.truncate(2**31)  # without content on the disk
    with pytest.raises(PhotoError, match=r"film\.mp4: not an image that can be read; it has more than 2 GB"):
        load_photo(tmp_path / "film.mp4", (4, 4), 1)
    with pytest.raises(PhotoError, match=r"cannot be decoded: .*[Dd]irectory"):
        load_photo(tmp_path, (4, 4), 1)
    save(rng.normal(size=(4, 4)).astype(np.float32), tmp_path / "float.tiff")
    with pytest.raises(PhotoError, match=r"float\.tiff: floating-point pixels have no defined range"):
        load_photo(tmp_path / "float.tiff", (4, 4), 1)


@pytest.mark.parametrize("end", ["jpg", "png", "tiff"])
def test_a_picture_that_was_opened_is_turned_as_its_file_is(tmp_path, end, rng):
    exif = Image.Exif()
    exif[274] = 6
    file = save(rng.integers(0, 256, (20, 33), np.uint8), tmp_path / f"turned.{end}", exif=exif)
    expected = np.asarray(read_photo(file, 1))
    assert expected.shape == (33, 20)
    with Image.open(file) as opened:
        np.testing.assert_array_equal(as_photo(opened, 1), expected)
    if end != "tiff":  # which Pillow reads wrongly where it turns it
        with Image.open(file) as opened:
            opened.load()
            np.testing.assert_array_equal(as_photo(opened, 1), expected)
            # Pillow copies the metadata to what is made of a picture, which is as its maker wants it.
            assert as_photo(opened.rotate(0), 1).size == (33, 20)


def test_folders_give_what_is_not_hidden_and_the_home_has_its_sign(tmp_path, monkeypatch):
    for name in ("b.png", "._b.png", "a/c.JPG", ".trash/d.png", "__MACOSX/e.png", "a/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (5, 4)).save(tmp_path / name, "PNG")
    assert photo_files([str(tmp_path)]) == ([str(tmp_path / "a/c.JPG"), str(tmp_path / "b.png")], {})
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / ".f.png").touch()
    assert [*photo_files([str(tmp_path / "only")])[1]] == [str(tmp_path / "only")]
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (3, 2)).save("~nobody.png")
    assert photo_files(["~nobody.png"]) == (["~nobody.png"], {}) and read_photo("~nobody.png", 3).size == (3, 2)
    assert photo_files(["~/a"])[0] == [str(tmp_path / "a/c.JPG")] and read_photo("~/b.png", 3).size == (5, 4)
