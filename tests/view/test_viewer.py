"""The viewer in a real browser: what the page shows and what its controls do."""

from __future__ import annotations

import colorsys
import threading
import time

import numpy as np
import pytest

from dexjax.hands import load_hand
from dexjax.metrics.stage import Stage, finger_colour
from dexjax.view.episodes import EpisodePlayer
from dexjax.view.hands import HandViewer
from dexjax.view.objects import ObjectViewer
from dexjax.view.targets import _entry
from dexjax.view.viewer import Viewer

viser = pytest.importorskip("viser", reason="pip install 'dexjax[view]'")

_PORT = 8610  # each page takes the next free one


@pytest.fixture
def page(browser):
    """Opens a page for what `show(viewer)` puts into it; stops its server at the end."""
    viewers = []

    def open_page(show):
        viewer = Viewer("test", port=_PORT)
        shown = show(viewer)
        thread = threading.Thread(target=viewer.run, daemon=True)
        thread.start()
        viewers.append((viewer, thread))
        browser.log.clear()
        browser.goto(viewer.address)
        browser.wait("document.querySelector('canvas') !== null")
        _wait(lambda: len(viewer.server.get_clients()) == 1)
        _settle(browser)
        browser.value("document.querySelector('.mantine-Notification-closeButton')?.click()")
        return viewer, shown

    yield open_page
    for viewer, thread in viewers:
        viewer.end()
        thread.join(10)
    browser.goto("about:blank")


def _wait(holds, seconds=30.0):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "nothing happened in the page"
        time.sleep(0.05)


def _settle(browser, seconds=30.0):
    """Wait until the canvas no longer changes, and return it."""
    end, last = time.monotonic() + seconds, None
    while time.monotonic() < end:
        image = _scene(browser)
        if last is not None and image.std() > 2 and np.abs(image - last).max() < 3:
            return image
        last = image
        time.sleep(0.25)
    raise AssertionError("the picture does not come to rest")


def _changed(browser, before, share=1e-3, seconds=30.0):
    """Wait until a share of the picture's pixels has changed clearly and it is at rest again."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        browser.stir()
        image = _settle(browser)
        if (np.abs(image - before).max(-1) > 40).mean() > share:
            return image
    raise AssertionError("the picture does not change")


def _scene(browser) -> np.ndarray:
    """The part of the page left of the panel, as floats."""
    return browser.screenshot()[160:, :620].astype(float)


def _hue_share(image: np.ndarray, colour) -> float:
    """Part of the pixels with the hue of a colour, whatever their brightness."""
    wanted = colorsys.rgb_to_hsv(*colour)[0]
    pixels = image.reshape(-1, 3)[::3] / 255
    high, low = pixels.max(1), pixels.min(1)
    vivid = pixels[(high - low > 0.25 * high) & (high > 0.2)]
    hues = np.array([colorsys.rgb_to_hsv(*p)[0] for p in vivid])
    apart = np.abs((hues - wanted + 0.5) % 1 - 0.5)
    return float((apart < 0.03).sum()) / len(pixels)


def test_episode_page(page, browser, episodes):
    viewer, player = page(lambda v: EpisodePlayer(v, episodes))
    image = _settle(browser)
    # Not blank, light at the edge, and every finger, the mug's body and the table in their colours.
    assert image.std() > 10 and image[:20].mean() > 245
    for finger in range(5):
        assert _hue_share(image, finger_colour(finger)) > 2e-4, f"finger {finger}"
    assert _hue_share(image, (0.15, 0.45, 0.70)) > 2e-3  # the mug's body
    assert (np.abs(image - (205, 193, 180)).max(-1) < 25).mean() > 0.1  # the table
    bodies = {f"/hand/{name}" for name in load_hand("shadow").body_names[1:]}
    for name in (*bodies, "/object", "/table", "/goal"):
        assert viewer.server.scene.get_handle_by_name(name) is not None, name
    # The page asks nobody else for anything, and nothing went wrong in it.
    local = ("127.0.0.1", "localhost", "data:", "blob:")
    requests = [line for line in browser.log if line.startswith("request: ")]
    assert requests and all(any(part in line for part in local) for line in requests)
    assert not [line for line in browser.log if line.startswith("exception")]

    # The slider, by keyboard, changes the pose that is shown: half way, the fingers are bent.
    browser.focus("document.querySelector('[role=slider]')")
    for _ in range(6):
        browser.press("ArrowRight", 39)
    step = 6
    _wait(lambda: player.timeline.slider.value == step)
    xpos, _ = Stage(episodes[0].scene, player._stage.thing).body_poses(episodes[0].qpos[step])
    frames = player._hand._frames
    # The slider has its value before the callback, in another thread, has posed the hand.
    _wait(lambda: all(np.abs(f.position - xpos[b]).max() <= 1e-9 for b, f in frames.items()))
    for body, frame in frames.items():
        np.testing.assert_allclose(frame.position, xpos[body], atol=1e-9)
    _changed(browser, image, share=0.01)
    assert player._contacts._arrows is not None  # forces from the middle of the episode on

    # Play runs to the end and stops there; another episode starts at its beginning.
    browser.click("[...document.querySelectorAll('button')].find(b => b.innerText == 'Play')")
    _wait(lambda: player.timeline.slider.value == len(episodes[0].qpos) - 1)
    _wait(lambda: not player.timeline.playing)
    player.picker.value = "1: box_000: missed"
    assert player.timeline.slider.value == 0 and player.episode is episodes[1]
    browser.wait("document.body.innerText.includes('missed')")
    titles = (
        "success so far, 0 or 1",
        "reward terms, per step",
        "force on each finger, N",
        "object above its start, m",
    )
    text = browser.value("document.body.innerText")
    assert all(t in text for t in titles)


def test_camera_reset(page, browser, episodes):
    viewer, _ = page(lambda v: EpisodePlayer(v, episodes))
    (client,) = viewer.server.get_clients().values()
    near, start = _settle(browser), np.asarray(client.camera.position)
    client.camera.position = (0.1, -1.5, 0.9)
    far = _changed(browser, near)
    buttons = "[...document.querySelectorAll('button')]"
    browser.click(f"{buttons}.find(b => b.innerText.includes('Reset camera'))")
    again = _changed(browser, far)
    _wait(lambda: np.abs(np.asarray(client.camera.position) - start).max() < 0.02)
    assert (np.abs(again - near).max(-1) > 40).mean() < 1e-3


def test_hand_page(page, browser):
    _, hand = page(lambda v: HandViewer(v, "shadow"))
    straight = _settle(browser)
    assert len(hand.sliders) == 22
    browser.focus("document.querySelectorAll('[role=slider]')[1]")  # FFJ2: the first finger bends
    browser.press("End", 35)
    _wait(lambda: hand.sliders["FFJ2"].value > 1.5)
    _changed(browser, straight)
    red = finger_colour(0)
    assert _hue_share(straight, red) > 1e-3
    hand.posture.value = next(iter(hand.hand.postures))
    assert hand.sliders["FFJ2"].value == pytest.approx(
        float(np.asarray(hand.hand.postures[hand.posture.value])[1]), abs=0.006
    )


def test_object_page(page, browser):
    from dexjax.objects.builtin import builtin_asset

    assets = [builtin_asset("mug", 0), builtin_asset("hammer", 0)]
    viewer, shown = page(lambda v: ObjectViewer(v, [_entry(a) for a in assets], built=True))
    plain = _settle(browser)
    shown.layers["distance slice"].value = True
    sliced = _changed(browser, plain, share=0.02)
    # Outside distances are red: there are none on a mug of blue, orange, pink and green.
    assert _hue_share(sliced, (0.85, 0.30, 0.20)) > _hue_share(plain, (0.85, 0.30, 0.20)) + 0.02
    shown.layers["distance slice"].value = False
    shown.layers["sample points"].value = True
    _changed(browser, plain)
    shown.picker.value = "1: hammer_000"
    browser.wait("document.body.innerText.includes('hammer_000')")
    assert shown.asset is not None and shown.asset.name == "hammer_000"
