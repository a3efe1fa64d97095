"""A server on loopback (JupyterLab, Notebook 7 and Voila in one) and a headless Chromium that can reach nothing else; what a page complains of fails its test."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="browser tests need playwright")

ROOT = Path(__file__).parents[2]
LOOPBACK = re.compile(r"^(data:|blob:|about:|file://|(https?|wss?)://(127\.0\.0\.1|localhost)[:/])")
# what JupyterLab and the widget manager say on every visit, with the reason why it is no concern of ours
EXPECTED_CONSOLE = {
    r"^strict mode: use allowUnionTypes": "the widget manager of saved pages checks its own schema aloud",
    r"^Starting application in workspace": "JupyterLab names its workspace",
    r"^Starting WebSocket: ws://127\.0\.0\.1": "JupyterLab connects to the kernel",
    r"^Connection lost, reconnecting in \d+ seconds": "a kernel that was restarted on purpose is connected to again",
    r"Font Awesome|font-awesome": "Voila's own template asks a content network for icons; the gate refuses it",
    r"^Could not restore the debugger state": "a kernel that was shut down on purpose answers no more",
    r"^Kernel: (starting|busy|idle|connected|connecting|disconnected|restarting|terminating|dead|unknown) ": "JupyterLab reports the kernel's state",
}
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--force-color-profile=srgb",
)


def find_chromium() -> str | None:
    """The browser named in $CHROMIUM, or the first of the usual names on PATH."""
    for name in (os.environ.get("CHROMIUM"), "chromium", "chromium-browser", "google-chrome", "google-chrome-stable"):
        if name and (path := shutil.which(name)):
            return path
    return None


def free_port() -> int:
    """A loopback port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answers(port: int) -> bool:
    """Whether a server listens."""
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


@dataclass
class Lab:
    """A running server, the folder it serves, and where it keeps its signatures."""

    port: int
    token: str
    folder: Path
    data: Path

    def url(self, notebook: str, where: str = "lab") -> str:
        """Address of a notebook in `lab` (in a fresh workspace: what an earlier test left open must not come back), `notebook` or `voila`."""
        path = {"lab": "lab/tree", "notebook": "notebooks", "voila": "voila/render"}[where]
        return f"http://127.0.0.1:{self.port}/{path}/{notebook}?token={self.token}" + "&reset" * (where == "lab")


@dataclass
class Watch:
    """What a page asked for and said."""

    outside: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    console: list[str] = field(default_factory=list)

    def unexpected(self) -> list[str]:
        """Console lines that no entry of the allow-list explains."""
        return [line for line in self.console if not any(re.search(known, line) for known in EXPECTED_CONSOLE)]


@pytest.fixture(scope="session")
def notebooks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of nbs/, so that running and saving leave the work tree alone."""
    ignore = shutil.ignore_patterns(".ipynb_checkpoints", ".last_checked")
    return Path(shutil.copytree(ROOT / "nbs", tmp_path_factory.mktemp("lab") / "nbs", ignore=ignore))


@pytest.fixture(scope="session")
def lab(notebooks: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A JupyterLab with settings, history and kernels of its own."""
    home, port, token = tmp_path_factory.mktemp("home"), free_port(), secrets.token_hex(16)
    quiet = home / "settings/@jupyterlab/apputils-extension/notification.jupyterlab-settings"
    quiet.parent.mkdir(parents=True)
    # otherwise a question about news lies over the corner of the page
    quiet.write_text('{"checkForUpdates": false, "doNotDisturbMode": true, "fetchNews": "false"}')
    # a saved notebook holds what its widgets showed
    keep = home / "settings/@jupyter-widgets/jupyterlab-manager/plugin.jupyterlab-settings"
    keep.parent.mkdir(parents=True)
    keep.write_text('{"saveState": true}')
    own = {
        "HOME": home,
        "JUPYTER_CONFIG_DIR": home / "config",
        "JUPYTER_RUNTIME_DIR": home / "runtime",
        "JUPYTER_DATA_DIR": home / "data",
        "IPYTHONDIR": home / "ipython",
        "JUPYTERLAB_SETTINGS_DIR": home / "settings",
        "JUPYTERLAB_WORKSPACES_DIR": home / "workspaces",
    }
    env = os.environ | {name: str(path) for name, path in own.items()} | {"HF_HUB_OFFLINE": "1"}
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.port={port}",
        "--ServerApp.port_retries=0",
        f"--ServerApp.root_dir={notebooks}",
        f"--IdentityProvider.token={token}",
        "--LabApp.extension_manager=readonly",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        "--LabApp.expose_app_in_browser=True",
        "--JupyterNotebookApp.expose_app_in_browser=True",
        *(["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []),
    ]
    log = home / "server.log"
    with log.open("wb") as sink:
        server = subprocess.Popen(command, cwd=notebooks, env=env, stdout=sink, stderr=sink)
    try:
        end = time.monotonic() + 90
        while not answers(port):
            if server.poll() is not None or time.monotonic() > end:
                pytest.fail(f"JupyterLab did not start; its log:\n{log.read_text()[-3000:]}")
            time.sleep(0.2)
        yield Lab(port, token, notebooks, own["JUPYTER_DATA_DIR"])
    finally:
        server.terminate()
        try:
            server.wait(15)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium; without one the test is skipped, but never where CI is set."""
    path = find_chromium()
    if path is None:
        reason = "no Chromium on PATH: install the package chromium, or name one in $CHROMIUM"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_api.sync_playwright() as play:
        running = play.chromium.launch(executable_path=path, args=list(FLAGS))
        yield running
        running.close()


@pytest.fixture
def watch() -> Watch:
    """The record that `page` fills and judges."""
    return Watch()


@pytest.fixture
def page(browser: Any, watch: Watch, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A page cut off from the network; script errors, unexplained console lines and outside requests fail the test."""
    context = browser.new_context(viewport={"width": 1400, "height": 1000})

    def gate(route: Any) -> None:
        if LOOPBACK.match(route.request.url):
            route.continue_()
        else:
            watch.outside.append(route.request.url)
            route.abort()

    context.route("**/*", gate)
    tab = context.new_page()
    tab.on("pageerror", lambda error: watch.errors.append(str(error)))
    tab.on("console", lambda message: watch.console.append(message.text))
    tab.on("websocket", lambda socket: None if LOOPBACK.match(socket.url) else watch.outside.append(socket.url))
    tab.set_default_timeout(45_000)
    yield tab
    shots = Path(os.environ.get("SHOTS", ROOT / "build" / "shots"))
    shots.mkdir(parents=True, exist_ok=True)
    tab.screenshot(path=shots / f"{re.sub(r'[^A-Za-z0-9_-]+', '-', request.node.name)}.png")
    context.close()
    assert not watch.outside, f"the page asked for something off this machine: {watch.outside}"
    assert not watch.errors, f"a script failed in the page: {watch.errors}"
    assert not watch.unexpected(), f"lines on the console that the allow-list does not explain: {watch.unexpected()}"
