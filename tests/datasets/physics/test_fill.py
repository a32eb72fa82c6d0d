"""A folder of clips: what is in it, how it goes on after an interruption, what is refused."""

import os
import sys

import cv2
import numpy as np
import pytest

from pointloom import cli
from pointloom.datasets.kubric import Kubric
from pointloom.datasets.kubric_layout import write_sequence
from pointloom.datasets.physics import ModelBank, PhysicsConfig, engine, make_full_clip
from pointloom.datasets.physics import fill as filling
from pointloom.datasets.physics.fill import Production, fill
from pointloom.datasets.physics.truth import quaternion
from pointloom.datasets.pool import ClipPool
from pointloom.datasets.safe_pickle import load_npy
from pointloom.datasets.synthetic import LayeredConfig, TextureBank, make_clip
from pointloom.errors import DatasetError, MissingExtraError, NoOpenGLError

SMALL = PhysicsConfig(size=(48, 32), frames=3, tracks=20, objects=(1, 2))


def content(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pool")
    assert fill(folder, range(3, 6), Production(SMALL)) == 3
    return folder


def test_a_pool_of_physics_clips_is_read_as_any_pool(pool):
    clips = ClipPool.open(pool)
    assert clips.names == ("00000003", "00000004", "00000005")
    assert clips[0].frames.shape == (3, 32, 48, 3)
    assert clips[0].xy.shape == (20, 3, 2)


def test_an_interrupted_run_goes_on_and_gives_the_same_files(pool, tmp_path, monkeypatch):
    make = filling.make_clip

    def interrupted(config, textures, models, seed):
        if seed == 4:
            raise KeyboardInterrupt
        return make(config, textures, models, seed)

    monkeypatch.setattr(filling, "make_clip", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path, range(3, 6), Production(SMALL))
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["00000003"]
    assert fill(tmp_path, range(3, 6), Production(SMALL)) == 2
    assert content(tmp_path) == content(pool)
    assert fill(tmp_path, range(3, 6), Production(SMALL)) == 0


def test_several_processes_give_the_same_files(pool, tmp_path):
    done = []
    assert fill(tmp_path, range(3, 6), Production(SMALL), workers=2, progress=done.append) == 3
    assert content(tmp_path) == content(pool)
    assert done == pytest.approx([1 / 3, 2 / 3, 1])


def test_what_is_not_a_clip_of_this_layout_is_left_alone(pool):
    before = content(pool)
    with pytest.raises(DatasetError, match="00000004 is there, but is not a clip in the layout kubric"):
        fill(pool, range(4, 5), Production(SMALL, layout="kubric"))
    assert content(pool) == before


# ---- Kubric's layout


@pytest.fixture(scope="module")
def sequence(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kubric")
    fill(folder, range(7, 8), Production(SMALL, layout="kubric"))
    return folder, make_full_clip(SMALL, TextureBank.procedural(), ModelBank(), seed=7)


def test_a_sequence_in_kubrics_layout_is_read_back_as_it_was_made(sequence):
    folder, made = sequence
    (clip,) = Kubric(folder)
    assert clip.name == "00000007"
    np.testing.assert_array_equal(clip.frames, made.frames)
    np.testing.assert_allclose(clip.xy, made.xy, atol=1e-4)  # half a pixel there and back
    np.testing.assert_array_equal(clip.visible, made.visible)
    np.testing.assert_array_equal(clip.valid, made.valid)


def test_what_is_not_valid_is_not_a_number_in_the_file_and_not_valid_when_it_is_read(tmp_path):
    clip = make_full_clip(SMALL, TextureBank.procedural(), ModelBank(), seed=7)
    clip.valid[2, 1] = clip.visible[2, 1] = False
    write_sequence(tmp_path, clip)
    assert np.isnan(load_npy(tmp_path / clip.name / f"{clip.name}.npy")["coords"][2, 1]).all()
    (read,) = Kubric(tmp_path)
    assert not read.valid[2, 1]
    np.testing.assert_array_equal(read.visible, clip.visible)


def test_a_sequence_holds_all_that_is_known_of_the_scene(sequence):
    folder, made = sequence
    folder /= "00000007"
    for t in range(3):
        np.testing.assert_array_equal(np.load(folder / "depths" / f"{t:03}.npy"), made.depth[t])
        stored = cv2.imread(str(folder / "segmentations" / f"{t:03}.png"), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(stored, made.segmentation[t])
    np.testing.assert_array_equal(np.load(folder / "forward_flows" / "001.npy"), made.flow[1])
    assert not (folder / "forward_flows" / "002.npy").exists()
    np.testing.assert_array_equal(load_npy(folder / "00000007.npy")["coords_depth"], made.track_depth)


def test_the_camera_of_a_sequence_sees_tracks_where_they_are(sequence):
    """Lift a track with its depth to the world by the stored camera of one frame: fixed points meet in all frames."""
    folder, made = sequence
    stored = load_npy(folder / "00000007" / "00000007.npy")
    camera, coords, depth = stored["camera"], stored["coords"], stored["coords_depth"]
    width = made.size[0]
    intrinsics = np.asarray(camera["intrinsics"])
    assert camera["focal_length"] / camera["sensor_width"] * width == pytest.approx(intrinsics[0, 0])
    assert intrinsics[:2, 2].tolist() == [24, 16]  # raster: the middle of 48 x 32 pixels
    world = []
    for t in range(3):
        w, x, y, z = np.asarray(camera["quaternions"])[t]
        turn = np.array(
            [
                [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
                [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
                [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
            ]
        )
        ahead = np.concatenate([coords[:, t], np.ones((20, 1))], axis=1) @ np.linalg.inv(intrinsics).T
        ahead = ahead * depth[:, t, None] * [1, -1, -1]  # Blender: y up, z back
        world.append(ahead @ turn.T + np.asarray(camera["positions"])[t])
    still = np.linalg.norm(world[2] - world[0], axis=1) < 1e-3
    assert still.sum() >= 8  # half of the points are on the room
    assert np.abs(np.array(world)[:, still, 2]).min() < 1e-3  # and some of these on the floor


def test_a_layered_clip_can_be_written_in_kubrics_layout_too(tmp_path):
    clip = make_clip(LayeredConfig(size=(48, 32), frames=3, tracks=5), TextureBank.procedural(count=2), seed=1)
    write_sequence(tmp_path, clip)
    (read,) = Kubric(tmp_path)
    np.testing.assert_array_equal(read.frames, clip.frames)
    np.testing.assert_allclose(read.xy, clip.xy, atol=1e-4)


def test_what_a_killed_process_left_behind_does_not_disturb(tmp_path):
    clip = make_clip(LayeredConfig(size=(48, 32), frames=3, tracks=5), TextureBank.procedural(count=2), seed=1)
    left = tmp_path / f".{clip.name}.{os.getpid()}"
    left.mkdir()
    (left / "junk").touch()
    write_sequence(tmp_path, clip)
    assert [path.name for path in tmp_path.iterdir()] == [clip.name]
    assert not (tmp_path / clip.name / "junk").exists()


def test_convention_quaternions_start_with_the_cosine_of_half_the_angle():
    third = np.array([[0, 0, 1.0], [1, 0, 0], [0, 1, 0]])  # 120 degrees about (1, 1, 1)
    np.testing.assert_allclose(quaternion(third), [0.5, 0.5, 0.5, 0.5])
    np.testing.assert_allclose(quaternion(np.diag([1.0, -1, -1])), [0, 1, 0, 0], atol=1e-9)


# ---- the command, and what can be missing


def run(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["pointloom", "synth", "physics", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return end.value.code, *capsys.readouterr()


def test_the_command_makes_clips_and_says_how_many(tmp_path, monkeypatch, capsys):
    options = ("--clips", 1, "--frames", 2, "--width", 32, "--height", 32, "--tracks", 5, "--layout", "kubric")
    code, out, _ = run(monkeypatch, capsys, tmp_path, *options)
    assert (code, out) == (0, f"1 clips made, 0 were there: {tmp_path}\n")
    assert Kubric(tmp_path).names == ("00000000",)
    code, out, _ = run(monkeypatch, capsys, tmp_path, *options)
    assert (code, out) == (0, f"0 clips made, 1 were there: {tmp_path}\n")


def test_the_command_names_a_folder_of_models_that_is_not_there(tmp_path, monkeypatch, capsys):
    code, _, err = run(monkeypatch, capsys, tmp_path / "out", "--models", tmp_path / "gone")
    assert code == 2
    assert "gone does not exist" in err


def test_without_mujoco_the_message_is_the_line_to_type(monkeypatch):
    monkeypatch.setitem(sys.modules, "mujoco", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'pointloom\[physics\]'"):
        engine.load_mujoco.__wrapped__()


def test_without_opengl_the_message_says_what_to_install(monkeypatch):
    mujoco = engine.load_mujoco()

    def no_library(*_):
        raise AttributeError("'NoneType' object has no attribute 'eglQueryString'")

    monkeypatch.setattr(mujoco, "GLContext", no_library)
    with pytest.raises(NoOpenGLError, match=r"eglQueryString.*sudo apt-get install libegl1 .*administrator"):
        engine.load_mujoco.__wrapped__()
