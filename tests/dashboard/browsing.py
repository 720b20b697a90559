"""A server of the dashboard and a headless Chromium, for the tests that need a real browser."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
REPOSITORY = Path(__file__).parents[2]
expect.set_options(timeout=60_000)  # a busy machine may take long; nothing here is timed
SOON = 15_000  # ms after which a click is made again


@contextlib.contextmanager
def serving(root: Path, log: Path, *options: str) -> Iterator[str]:
    """A server of the dashboard, as the command line starts it."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    with log.open("wb") as out:
        server = subprocess.Popen(
            [sys.executable, "-m", "streamlit", "run", "dashboard/app.py",
             "--server.port", str(port), "--", "--runs", str(root), *options],
            cwd=REPOSITORY, stdout=out, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            _wait_until_up(server, f"http://localhost:{port}/_stcore/health", log)
            yield f"http://localhost:{port}"
        finally:
            server.terminate()
            server.wait()


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's browser, without a window."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield browser
        browser.close()


@contextlib.contextmanager
def quiet_page(browser: Browser, address: str, width: int, scheme: str) -> Iterator[Page]:
    """A page of one width; afterwards nothing may have gone wrong in it."""
    context = browser.new_context(
        viewport={"width": width, "height": 1000},
        color_scheme="dark" if scheme == "dark" else "light",
    )
    page = context.new_page()
    page.set_default_timeout(60_000)
    troubles: list[str] = []
    page.on("console", lambda m: troubles.append(_said(m)) if _is_trouble(m, address) else None)
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("request", lambda r: None if _local(r.url, address) else troubles.append(r.url))
    yield page
    expect(page.get_by_test_id("stException")).to_have_count(0)
    context.close()
    assert troubles == []


def until(act: Callable[[], None], taken: Callable[[], None]) -> None:
    """Acts again where a chart that was just being drawn lost the click; then `taken` must hold."""
    for _ in range(3):
        act()
        with contextlib.suppress(AssertionError):
            return taken()
    taken()


def screenshots(otherwise: Path) -> Path:
    """$SCREENSHOTS, to look at them, or a folder that pytest clears."""
    folder = Path(os.environ.get("SCREENSHOTS") or otherwise)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _wait_until_up(server: subprocess.Popen[bytes], health: str, log: Path) -> None:
    while True:
        assert server.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(health):
                return
        except urllib.error.URLError:
            time.sleep(0.1)


def _said(message: ConsoleMessage) -> str:
    return f"{message.text} {message.location.get('url', '')}"


def _is_trouble(message: ConsoleMessage, address: str) -> bool:
    """Any error but one: opened below `/page`, Streamlit asks for itself there before at `/`."""
    if message.type != "error":
        return False
    place = message.location.get("url", "").removeprefix(address)
    return re.fullmatch(r"/[a-z-]+/_stcore/(health|host-config)", place) is None


def _local(url: str, address: str) -> bool:
    """Everything comes from the server itself: the dashboard works without a network."""
    return url.startswith((address, address.replace("http", "ws", 1), "data:", "blob:"))
