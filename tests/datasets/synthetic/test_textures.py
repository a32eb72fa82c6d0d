import cv2
import numpy as np
import pytest
from small_scenes import noise

from pointloom.datasets.synthetic.patterns import gradient, graphic, random_pattern
from pointloom.datasets.synthetic.shapes import random_mask
from pointloom.datasets.synthetic.textures import TextureBank, TextureMix, random_texture, resize
from pointloom.errors import DatasetError, OptionError

ONLY_PHOTOS = TextureMix(pattern=0.0, weak=0.0, graphic=0.0)


def write(path, image):
    cv2.imwrite(str(path), image[..., ::-1])


def test_a_folder_gives_its_photos_in_the_order_of_their_names(tmp_path):
    for name, seed in (("b.png", 1), ("a.png", 0), ("c.PNG", 2)):
        write(tmp_path / name, noise(seed=seed))
    (tmp_path / "notes.txt").write_text("not a photo")
    photos = TextureBank.from_folder(tmp_path).photos
    assert len(photos) == 3
    for seed, photo in enumerate(photos):
        assert (photo == noise(seed=seed)).all()  # RGB, in order


def test_large_photos_are_shrunk_once():
    (photo,) = TextureBank([np.zeros((600, 1152, 3), np.uint8)]).photos
    assert photo.shape == (300, 576, 3)


def test_the_same_seed_draws_the_same_textures():
    first, again, other = (TextureBank.procedural(seed, count=2).photos for seed in (3, 3, 4))
    assert (first[1] == again[1]).all()
    assert (first[1] != other[1]).any()


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda folder: TextureBank([]), OptionError, "at least one photo"),
        (lambda folder: TextureBank([np.zeros((40, 40), np.uint8)]), OptionError, r"Photo 0 has shape \(40, 40\)"),
        (lambda folder: TextureBank([np.zeros((40, 40, 3))]), OptionError, "float64"),
        (lambda folder: TextureBank([noise(), noise(8, 40)]), OptionError, "Photo 1 .* at least 16"),
        (lambda folder: TextureBank.from_folder(folder / "gone"), DatasetError, "does not exist"),
        (TextureBank.from_folder, DatasetError, "no jpg or png"),
    ],
    ids=["no photo", "grey", "not bytes", "tiny", "no folder", "empty folder"],
)
def test_a_bank_that_cannot_be_made_says_why(make, error, says, tmp_path):
    with pytest.raises(error, match=says):
        make(tmp_path)


@pytest.mark.parametrize("content", [b"", b"these bytes are no photo"], ids=["empty", "junk"])
def test_a_broken_photo_is_named(tmp_path, content):
    (tmp_path / "broken.jpg").write_bytes(content)
    with pytest.raises(DatasetError, match=r"broken\.jpg cannot be decoded"):
        TextureBank.from_folder(tmp_path)


@pytest.mark.parametrize("draw", [random_pattern, gradient, graphic])
@pytest.mark.parametrize("size", [(10, 10), (11, 300), (200, 90)], ids=str)
def test_drawn_textures_fill_any_size_and_show_something(draw, size):
    for seed in range(30):
        image = draw(np.random.default_rng(seed), *size)
        assert image.shape == (size[1], size[0], 3)
        assert image.dtype == np.uint8
        assert image.std() > 0.5, f"seed {seed} is plain"


def test_patterns_repeat():
    shares = []
    for seed in range(40):
        grey = random_pattern(np.random.default_rng(seed), 240, 180).mean(axis=2)
        grey -= grey.mean()
        power = np.abs(np.fft.rfft2(grey)) ** 2
        shares.append(np.sort(power.ravel())[-40:].sum() / power.sum())
    assert np.median(shares) > 0.5  # a few frequencies hold most of the contrast; of noise they hold a hundredth


def test_without_other_kinds_a_texture_is_cut_out_of_the_photo():
    photo = np.zeros((100, 100, 3), np.uint8)
    photo[..., 0] = np.arange(100)
    part = random_texture(np.random.default_rng(0), photo, (20, 20), coverage=2.0, mix=ONLY_PHOTOS)
    steps = np.diff(part[0, :, 0].astype(int))
    assert np.abs(steps).tolist() == [2] * 19  # each pixel shows two of the photo's, to the right or mirrored


def test_a_cut_out_covers_no_more_than_the_photo_has():
    part = random_texture(np.random.default_rng(0), noise(40, 30), (20, 60), coverage=np.inf, mix=ONLY_PHOTOS)
    assert part.shape == (60, 20, 3)


def test_shrinking_averages_and_enlarging_interpolates():
    stripes = np.tile(np.array([0, 200], np.uint8), (8, 4))
    assert (resize(stripes, 4, 4) == 100).all()
    assert resize(stripes, 16, 8)[0, 1] == 50  # a quarter of the way from pixel 0 to pixel 1


@pytest.mark.parametrize("size", [(10, 10), (40, 25), (130, 90)], ids=str)
def test_a_mask_has_an_inside_and_an_empty_border(size):
    for seed in range(60):
        mask = random_mask(np.random.default_rng(seed), *size)
        assert mask.shape == size[::-1]
        assert (mask >= 128).sum() >= 4, f"seed {seed} is empty"
        assert max(mask[0].max(), mask[-1].max(), mask[:, 0].max(), mask[:, -1].max()) == 0
