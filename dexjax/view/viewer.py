"""The page in the browser: server, camera, light, and meshes as scene nodes."""

from __future__ import annotations

import contextlib
import errno
import io
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dexjax.core.errors import ConfigError, MissingExtraError
from dexjax.render import RenderMesh
from dexjax.view.text import plain

DEFAULT_PORT = 8080
_PORTS_TRIED = 20
_TICK = 1 / 60  # s between looks at the clock

RGB = tuple[int, int, int]


def rgb(colour: Sequence[float] | np.ndarray) -> RGB:
    """Colour 0 .. 1 as three bytes."""
    r, g, b = (int(round(255 * float(c))) for c in colour)
    return r, g, b


class Viewer:
    """A page served from this process. Callbacks run in the server's threads: take `lock`."""

    def __init__(self, title: str, host: str = "127.0.0.1", port: int = DEFAULT_PORT) -> None:
        """Serve at `port`, or at the next free one. Raises ConfigError where none can be had."""
        try:
            import viser
        except ImportError as error:
            raise MissingExtraError(
                f"the viewer needs viser ({error}); pip install 'dexjax[view]'. Without it: "
                "--record out.mp4 writes a video"
            ) from error
        free = _free_port(host, port)
        if free != port:
            print(f"port {port} is in use: serving at {free} instead")
        self.lock = threading.RLock()
        self._ended = threading.Event()
        self._tickers: list[Callable[[float], None]] = []
        self._closers: list[Callable[[], None]] = []
        with contextlib.redirect_stdout(io.StringIO()):  # its banner; ours says more
            server = viser.ViserServer(host=host, port=free, label=title, verbose=False)
        self.server: Any = server  # viser is optional: its types are not relied on
        self.port = self.server.get_port()
        shown = "localhost" if host in ("127.0.0.1", "0.0.0.0", "::") else host
        shown = f"[{shown}]" if ":" in shown else shown
        self.address = f"http://{shown}:{self.port}"
        self._camera: tuple[Any, Any] = ((0.5, -0.6, 0.5), (0.0, 0.0, 0.1))
        self._decorate(title)

    # --- scene ----------------------------------------------------------------------------------

    def add_mesh(self, name: str, mesh: RenderMesh, **options: Any) -> list[Any]:
        """The nodes of a mesh: `name`, or `name`/0, /1, ... where it has several colours.

        Vertices are doubled along sharp edges, so that the browser draws these sharp.
        """
        colours = np.asarray(mesh.colour, float)
        if colours.ndim == 1:
            groups = [(name, np.arange(len(mesh.faces)), colours)]
        else:
            found, which = np.unique(colours, axis=0, return_inverse=True)
            groups = [
                (f"{name}/{i}", np.flatnonzero(which.ravel() == i), c) for i, c in enumerate(found)
            ]
        handles = []
        for node, faces, colour in groups:
            vertices, triangles = _crease_split(mesh, faces)
            handles.append(
                self.server.scene.add_mesh_simple(
                    node,
                    vertices,
                    triangles,
                    color=rgb(colour),
                    side="double",
                    position=tuple(mesh.position),
                    wxyz=tuple(mesh.quat),
                    **options,
                )
            )
        return handles

    def look(self, position: Sequence[float], target: Sequence[float]) -> None:
        """Where new pages, and the button "Reset camera", look from and to."""
        self._camera = (position, target)
        self.server.initial_camera.position = np.asarray(position, float)
        self.server.initial_camera.look_at = np.asarray(target, float)

    def look_at_box(self, low: np.ndarray, high: np.ndarray) -> None:
        """Look at a box (3,), (3,) from the front right, slightly above."""
        centre = 0.5 * (np.asarray(low) + np.asarray(high))
        radius = 0.5 * float(np.linalg.norm(np.asarray(high) - np.asarray(low)))
        self.look(centre + 1.9 * radius * np.array([0.55, -0.72, 0.42]), centre)
        self.server.scene.add_grid(  # a floor to see the size by: cells of 1 cm
            "/floor", 4 * radius, 4 * radius, cell_size=0.01, cell_color=(225, 225, 225),
            section_size=0.1, section_color=(170, 170, 170), shadow_opacity=0.25,
            position=(float(centre[0]), float(centre[1]), float(low[2]) - 0.002),
        )  # fmt: skip
        self.server.initial_camera.near = max(1e-3, 0.02 * radius)

    def reset_camera(self) -> None:
        """Move the camera of every page that is open."""
        position, target = self._camera
        for client in self.server.get_clients().values():
            with client.atomic():
                client.camera.position = np.asarray(position, float)
                client.camera.look_at = np.asarray(target, float)

    # --- life -----------------------------------------------------------------------------------

    def every_tick(self, ticker: Callable[[float], None]) -> None:
        """Call `ticker(seconds)` about sixty times per second while `run` runs."""
        self._tickers.append(ticker)

    def at_end(self, closer: Callable[[], None]) -> None:
        """Call `closer()` before the server stops."""
        self._closers.append(closer)

    def stop(self) -> None:
        """Stop the server now."""
        for closer in self._closers:
            closer()
        with contextlib.redirect_stdout(io.StringIO()):  # viser's own farewell
            self.server.stop()

    def end(self) -> None:
        """Make `run` return; from any thread."""
        self._ended.set()

    def run(self) -> None:
        """Serve until Ctrl-C, SIGTERM or `end`, then stop the server."""
        last = time.monotonic()
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.default_int_handler)  # also where a shell ignored it
        try:
            while not self._ended.is_set():
                time.sleep(_TICK)
                now = time.monotonic()
                with self.lock:
                    for ticker in self._tickers:
                        ticker(now - last)
                last = now
        except KeyboardInterrupt:
            print("\nviewer stopped")
        finally:
            self.stop()

    def _decorate(self, title: str) -> None:
        server = self.server
        server.gui.configure_theme(
            show_logo=False, show_share_button=False, brand_color=(44, 110, 170)
        )
        server.gui.main_panel.dock_right()
        server.scene.set_up_direction("+z")
        server.scene.world_axes.visible = False
        # Lights of our own: the default environment map would make everything grey.
        server.scene.configure_environment_map(None)
        server.scene.configure_default_lights(enabled=False)
        server.scene.add_light_hemisphere(
            "/lights/sky", sky_color=(255, 255, 255), ground_color=(190, 184, 176), intensity=2.0
        )
        server.scene.add_light_directional(
            "/lights/key", intensity=2.2, cast_shadow=True, position=(0.45, -0.55, 1.0)
        )
        server.scene.add_light_directional("/lights/fill", intensity=0.7, position=(-0.6, 0.5, 0.6))
        server.gui.add_markdown(f"**{plain(title)}**")
        button = server.gui.add_button("Reset camera", icon="camera", color="gray", order=1000.0)
        button.on_click(lambda _: self.reset_camera())


def _free_port(host: str, port: int) -> int:
    """`port`, or the first free one of the next twenty."""
    if not 0 < port < 65536:
        raise ConfigError(f"--port {port}: must be between 1 and 65535")
    for candidate in range(port, min(port + _PORTS_TRIED, 65536)):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, candidate))
                return candidate
            except PermissionError as error:
                raise ConfigError(f"--port {port}: {error.strerror}; try {DEFAULT_PORT}") from error
            except socket.gaierror as error:
                raise ConfigError(f"--host {host}: {error.strerror}") from error
            except OSError as error:
                if error.errno == errno.EADDRNOTAVAIL:  # not an address of this machine
                    raise ConfigError(f"--host {host}: {error.strerror}") from error
    raise ConfigError(f"--port {port}: it and the next {_PORTS_TRIED} ports are in use")


def _crease_split(mesh: RenderMesh, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and triangles of some faces, a vertex once for each of its shading normals."""
    corners = np.asarray(mesh.faces)[faces].ravel()
    normals = mesh.corner_normals[faces].reshape(-1, 3)
    key = np.column_stack([corners, np.round(normals * 500).astype(int)])
    unique, triangles = np.unique(key, axis=0, return_inverse=True)
    return np.asarray(mesh.vertices, np.float32)[unique[:, 0]], triangles.reshape(-1, 3)
