"""`python -m dexjax.view`: what it takes, what it says of bad input, its videos, its end."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from dataclasses import replace
from types import SimpleNamespace

import imageio.v3 as iio
import numpy as np
import pytest
import trimesh
from PIL import Image

from dexjax.core.config import to_plain
from dexjax.core.errors import ConfigError, DataError, MissingExtraError
from dexjax.metrics.episodes import SUFFIX, read_episodes, write_episodes
from dexjax.objects.builtin import builtin_asset
from dexjax.objects.cache import write_asset
from dexjax.rl.registry import find_env, find_preset
from dexjax.sim.divergence import DivergenceLog
from dexjax.view import targets, viewer
from dexjax.view.__main__ import main
from dexjax.view.timeline import Timeline


@pytest.fixture
def recording(episodes, tmp_path):
    file = tmp_path / f"a{SUFFIX}"
    write_episodes(file, episodes)
    return file


def test_kinds_are_told_apart(tmp_path, recording):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text("{}")
    mesh = tmp_path / "box.stl"
    trimesh.creation.box((0.1, 0.1, 0.1)).export(mesh)
    write_asset(builtin_asset("box", 0), tmp_path / "asset.npz")
    log = DivergenceLog()
    log.add(object_id=np.int32(0), qpos=np.zeros(35), qvel=np.zeros(34), ctrl=np.zeros(28))
    log.save(tmp_path / "diverged.npz")
    expected = {
        "shadow": "hand",
        "builtin:seen:mug_000": "objects",
        str(run): "run",
        str(tmp_path): "mesh",
        str(mesh): "mesh",
        str(tmp_path / "asset.npz"): "asset",
        str(tmp_path / "diverged.npz"): "divergences",
        str(recording): "episodes",
    }
    assert {t: targets.find_kind(t).name for t in expected} == expected
    for wrong, message in (("nothing", "no such file"), (__file__, "unknown kind of file")):
        with pytest.raises(DataError, match=message):
            targets.find_kind(wrong)


@pytest.mark.filterwarnings("ignore:os.fork")  # imageio reads videos through a forked ffmpeg
def test_video_shows_all_episodes_and_marks_success(recording, tmp_path, capsys):
    video = tmp_path / "out.mp4"
    assert main([str(recording), "--record", str(video)]) == 0
    assert "2 episodes, 1 of them successes" in capsys.readouterr().out
    frames = iio.imread(video, plugin="FFMPEG")
    assert frames.shape == (6, 240, 484, 3)  # 12 steps, every second; two tiles and a gap
    # Frames of the tiles: green for the first, red for the second. Lossy: within 40 of 255.
    left, right = frames[0, 100, 1].astype(int), frames[0, 100, -2].astype(int)
    assert np.abs(left - (46, 160, 67)).max() < 40 and np.abs(right - (207, 60, 50)).max() < 40
    assert np.abs(frames[0].astype(int) - frames[-1]).max() > 60


def test_without_ffmpeg_there_is_a_gif(recording, tmp_path, monkeypatch, capsys):
    import imageio_ffmpeg

    def missing():
        raise RuntimeError("No ffmpeg exe could be found.")

    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", missing)
    assert main([str(recording), "--record", str(tmp_path / "out.mp4")]) == 0
    out = capsys.readouterr().out
    assert "no ffmpeg" in out and "out.gif: 2 episodes" in out
    with Image.open(tmp_path / "out.gif") as image:
        assert image.n_frames == 6


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["nothing"], "nothing: no such file, hand or built-in object; view a run folder"),
        (["FILE", "--record", "out.avi"], "must be named .mp4"),
        (["FILE", "--record", "/no/such/out.mp4"], "no such folder"),
        (["FOLDER", "--record", "out.mp4"], "holds no recorded episodes.*dexjax.evaluate"),
        (["FILE", "--port", "70000"], "between 1 and 65535"),
        (["FILE", "--host", "no.such.host.invalid"], "--host no.such.host.invalid"),
        (["builtin:sen"], "seen"),
        (["builtin:seen:mug_00"], "did you mean mug_00"),
    ],
)
def test_command_line_errors(argv, message, recording, capsys):
    empty = recording.parent / "empty"
    empty.mkdir()
    places = {"FILE": str(recording), "FOLDER": str(empty)}
    assert main([places.get(a, a) for a in argv]) == 2
    err = capsys.readouterr().err
    assert re.search(message, err) and err.startswith("error: ") and err.count("\n") == 1


def test_unusable_runs_say_why_or_show_what_was_recorded(tmp_path, episodes, capsys):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text('{"env": "shadow_grasp"}')
    assert main([str(run)]) == 2
    out = capsys.readouterr()
    assert "playing its policy now" in out.out and "field preset is missing" in out.err
    # With recorded episodes these are shown instead.
    write_episodes(run / f"evaluation{SUFFIX}", episodes)
    assert [e.caption for e in targets.episodes_of(str(run))] == [e.caption for e in episodes]
    shown = []

    class Viewer(viewer.Viewer):
        def run(self):
            shown.append(self.server.scene.get_handle_by_name("/table"))
            self.stop()

    pytest.importorskip("viser", reason="pip install 'dexjax[view]'")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dexjax.view.__main__.Viewer", Viewer)
        assert main([str(run), "--live", "--port", "8690"]) == 0
    assert shown[0] is not None
    assert "showing recorded episodes instead" in capsys.readouterr().out


def test_missing_viser_names_the_extra(monkeypatch, recording, capsys):
    monkeypatch.setitem(sys.modules, "viser", None)
    with pytest.raises(MissingExtraError, match=r"dexjax\[view\]"):
        viewer.Viewer("title")
    assert main([str(recording)]) == 2
    assert "--record" in capsys.readouterr().err  # the next best thing


def test_next_free_port(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert viewer._free_port("127.0.0.1", port) in range(port + 1, port + 20)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(viewer, "_PORTS_TRIED", 1)
            with pytest.raises(ConfigError, match="in use"):
                viewer._free_port("127.0.0.1", port)


def test_timeline_plays_at_its_speed_and_no_further_than_is_known():
    pytest.importorskip("viser", reason="pip install 'dexjax[view]'")
    page = viewer.Viewer("time", port=8720)
    shown: list[int] = []
    try:
        time = Timeline(page, shown.append)
        time.load(10, 0.1)
        assert time.slider.max == 9 and shown[-1] == 0
        time._tick(1.0)
        assert time.slider.value == 0  # not playing
        time.set_playing(True)
        time._tick(0.25)
        time._tick(0.06)  # 3.1 steps by now
        assert time.slider.value == 3 and shown[-1] == 3
        time.speed.value = "2 x"
        time._tick(0.1)
        assert time.slider.value == 5
        time._jump("-1")
        assert time.slider.value == 4 and not time.playing
        time.set_playing(True)
        time._tick(60.0)
        assert time.slider.value == 9 and not time.playing  # the end stops it
        time.set_playing(True)
        assert time.slider.value == 0  # and play starts over
        time.load(10, 0.1, available=3)
        time.set_playing(True)
        time._tick(60.0)
        assert time.slider.value == 2 and time.playing  # waits for what is not known yet
        assert time.clock.value == "0.20 s of 0.90 s"
    finally:
        page.stop()


def test_divergences_are_followed_with_the_law_of_their_physics():
    """Middle joint bent by 0.8 rad, distal joint straight: the same end as the native engine's."""
    import jax.numpy as jnp

    from dexjax.sim.native import NativeEngine
    from dexjax.sim.physics import physics_preset
    from dexjax.sim.scene import SceneConfig, build_scene
    from dexjax.sim.types import Control
    from dexjax.view.divergence import _follow

    physics = physics_preset("physx").in_period(1 / 30)  # 8 steps
    scene = build_scene([builtin_asset("box", 0)], SceneConfig(coupling="tendon"))
    model = scene.model
    qpos, qvel, ctrl = np.zeros(model.nq), np.zeros(model.nv), np.zeros(model.nu)
    lead, last = (model.joint(n).qposadr[0] for n in ("FFJ1", "FFJ0"))
    qpos[2], qpos[-5], qpos[-4], qpos[lead] = 0.5, 0.3, 1.0, 0.8
    engine = NativeEngine(scene, 1, physics, threads=1)
    rows = (jnp.zeros(1, jnp.int32), *(jnp.asarray(v[None], jnp.float32) for v in (qpos, qvel)))
    state = engine.init(*rows, jnp.ones((1, 2)))
    state = engine.step(state, Control(jnp.zeros((1, model.nu)), jnp.zeros((1, 6))))

    task = SimpleNamespace(physics="physx", control_dt=1 / 30)
    path, _, _ = _follow(model.__copy__(), task, qpos, qvel, ctrl)
    assert path[-1, last] > 0.01  # it was pulled after its leader
    np.testing.assert_allclose(path[-1], state.qpos[0], atol=1e-5)  # the engine's float32


def test_dumped_divergences_are_followed(tmp_path):
    """A state at rest stays; one with a huge speed diverges again; NaN is named."""
    from dexjax.view.divergence import read_divergences

    found = find_preset(find_env("shadow_grasp"), "quick")
    train = replace(found.train, objects="builtin:seen:box_000")
    plain = {"env": "shadow_grasp", "preset": "quick", "task": to_plain(found.env)}
    plain |= {"ppo": to_plain(found.ppo), "train": to_plain(train)}
    (tmp_path / "config.json").write_text(json.dumps(plain))
    log = DivergenceLog()
    for speed in (0.0, 1e7, np.nan):
        qpos, qvel = np.zeros(35), np.zeros(34)
        qpos[2], qpos[-5], qpos[-4] = 0.5, 0.3, 1.0
        qvel[-6] = speed
        log.add(object_id=np.int32(0), qpos=qpos, qvel=qvel, ctrl=np.zeros(28))
    log.save(tmp_path / "diverged.npz")
    episodes, notes = read_divergences(tmp_path / "diverged.npz")
    assert ["does not diverge" in n for n in notes] == [True, False, False]
    assert "diverges again" in notes[1] and "not finite at the start: qvel" in notes[2]
    assert all(np.isfinite(e.qpos).all() and e.ending == "diverged" for e in episodes)
    # Free fall for the control period: g t^2 / 2 within what semi-implicit Euler adds (g t dt / 2).
    fall = episodes[0].qpos[0, -5] - episodes[0].qpos[-1, -5]
    time = (len(episodes[0].qpos) - 2) * episodes[0].control_dt
    assert fall == pytest.approx(9.81 * time * (time + episodes[0].control_dt) / 2, rel=1e-3)
    # The same file elsewhere has no run beside it.
    (tmp_path / "else").mkdir()
    (tmp_path / "diverged.npz").rename(tmp_path / "else" / "diverged.npz")
    with pytest.raises(DataError, match="config.json"):
        read_divergences(tmp_path / "else" / "diverged.npz")


def test_command_serves_and_ends_with_ctrl_c(recording):
    pytest.importorskip("viser", reason="pip install 'dexjax[view]'")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "dexjax.view", str(recording), "--port", str(port)]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        try:
            assert process.stdout is not None
            lines = []
            while not lines or "Ctrl-C" not in lines[-1]:
                line = process.stdout.readline()
                assert line, "".join(lines)
                lines.append(line)
            text = "".join(lines)
            assert f"port {port} is in use" in text
            address = re.search(r"http://localhost:\d+", text)
            assert address is not None
            url = address[0].replace("localhost", "127.0.0.1")
            with urllib.request.urlopen(url, timeout=20) as answer:
                assert answer.status == 200 and b"<html" in answer.read(2000).lower()
            process.send_signal(signal.SIGINT)
            rest, _ = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 0
    assert "viewer stopped" in rest and "Traceback" not in rest


def test_episode_files_are_read_back(recording, episodes):
    assert [e.object.name for e in read_episodes(recording)] == ["mug_000", "box_000"]
