import numpy as np
import pytest
from small_scenes import centre_of_mass, noise, spots

from pointloom.datasets.synthetic import LayeredConfig
from pointloom.datasets.synthetic.recording import Recording, random_recording

SIZE = (64, 48)
IDENTITY = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)


def recording(**changes):
    plain = {"tone": IDENTITY, "defocus": np.zeros(1), "vignette": None, "sharpen": 0.0, "noise": None, "quality": None}
    return Recording(size=SIZE, **{**plain, **changes})


def develop(recording, canvas, t=0):
    return recording.develop(canvas, t, np.random.default_rng(0))


@pytest.mark.parametrize("seed", range(20))
def test_without_wear_the_picture_is_left_as_it_is(seed):
    unworn = random_recording(np.random.default_rng(seed), LayeredConfig(size=SIZE, frames=3, wear=0.0))
    assert (develop(unworn, noise(), t=2) == noise()).all()


@pytest.mark.parametrize("canvas", [(40, 30), (64, 48), (96, 72)], ids=str)
def test_a_canvas_of_any_size_becomes_a_frame_with_everything_in_its_place(canvas):
    scale = canvas[0] / SIZE[0]
    place = np.array([30.2, 21.7])
    frame = develop(recording(), spots([(place + 0.5) * scale - 0.5], *canvas, sigma=3 * scale))
    assert frame.shape == (48, 64, 3)
    assert centre_of_mass(frame) == pytest.approx(place, abs=0.03)


def test_defocus_blurs():
    assert develop(recording(defocus=np.array([2.0])), noise()).std() < 0.5 * noise().std()


def test_sharpening_raises_the_contrast_of_detail():
    assert develop(recording(sharpen=1.0), noise()).std() > noise().std()


def test_a_vignette_darkens_the_corners_only():
    light = np.full((48, 64, 3), 255, np.uint8)
    light[0, 0] = 51
    frame = develop(recording(vignette=light), np.full((48, 64, 3), 200, np.uint8))
    assert (frame[0, 0] == 40).all()
    assert (frame[24, 32] == 200).all()


def test_noise_has_the_level_asked_for_and_is_new_in_each_frame():
    grain = np.random.default_rng(1).normal(0, 5, (48 + 64, 64 + 64, 3)).astype(np.int16)
    noisy, rng, grey = recording(noise=grain), np.random.default_rng(0), np.full((48, 64, 3), 128, np.uint8)
    first, second = noisy.develop(grey, 0, rng), noisy.develop(grey, 0, rng)
    assert first.std() == pytest.approx(5, rel=0.1)
    assert (first != second).mean() > 0.8


def test_compression_costs_detail_but_keeps_the_colours_apart():
    red = np.zeros((48, 64, 3), np.uint8)
    red[..., 0] = 220
    assert develop(recording(quality=30), red).reshape(-1, 3).mean(axis=0) == pytest.approx([220, 0, 0], abs=6)
    assert (develop(recording(quality=30), noise()) != noise()).mean() > 0.5


def test_recordings_differ_from_seed_to_seed_and_light_changes_in_some():
    config = LayeredConfig(size=SIZE, frames=24)
    tones = [random_recording(np.random.default_rng(seed), config).tone for seed in range(20)]
    changing = [bool((tone[0] != tone[-1]).any()) for tone in tones]
    assert 4 <= sum(changing) <= 16
    assert (tones[0][0] != tones[1][0]).any()
