"""Pictures of every page over every kind of run: `python -m tests.dashboard.screenshots OUT`.

Contract: one PNG per kind, page, width and scheme, as tall as the page; lessons are answered.
Boundary: takes pictures and checks nothing; the tests beside it do that.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Browser, Page

from tests.dashboard.browsing import chromium, serving
from tests.dashboard.kinds import KINDS, every_kind
from tests.dashboard.test_kinds_browser import COMPARE, EXPLORE, OTHERS

PAGES = (*EXPLORE, *COMPARE, *OTHERS)
FIRST = "first-start"  # the folder without a run


def main() -> None:
    """Takes the pictures that are asked for, all by default."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--kinds", nargs="*", default=[*KINDS, FIRST])
    parser.add_argument("--pages", nargs="*", default=PAGES)
    parser.add_argument("--widths", nargs="*", type=int, default=[1280, 1920])
    parser.add_argument("--schemes", nargs="*", default=["light", "dark"])
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with chromium() as browser, tempfile.TemporaryDirectory() as made:
        for kind in options.kinds:
            with _served(kind, Path(made) / kind) as address:
                for width in options.widths:
                    for scheme in options.schemes:
                        _tour(browser, address, kind, options.pages, width, scheme, options.out)


@contextlib.contextmanager
def _served(kind: str, folder: Path) -> Iterator[str]:
    """A server over every kind of run; over an empty folder at the first start."""
    folder.mkdir()
    with contextlib.ExitStack() as held:
        root = folder / "runs"
        if kind != FIRST:
            held.enter_context(every_kind(root))
        yield held.enter_context(serving(root, folder / "log"))


def _tour(
    browser: Browser, address: str, kind: str, pages: list[str], width: int, scheme: str, out: Path
) -> None:
    context = browser.new_context(
        viewport={"width": width, "height": 1000},
        color_scheme="dark" if scheme == "dark" else "light",
    )
    page = context.new_page()
    page.set_default_timeout(120_000)
    for name in pages:
        run = "" if kind == FIRST else f"?run={kind}"
        page.set_viewport_size({"width": width, "height": 1000})
        page.goto(f"{address}/{'' if name == 'overview' else name}{run}")
        _drawn(page)
        if name.startswith("learn"):
            page.get_by_test_id("stRadio").locator("label").nth(1).click()
            _drawn(page)
        tall = page.get_by_test_id("stMainBlockContainer").evaluate("each => each.scrollHeight")
        page.set_viewport_size({"width": width, "height": max(1000, min(int(tall) + 40, 4000))})
        page.wait_for_timeout(2000)  # charts fade in, tables are drawn again
        page.screenshot(path=out / f"{kind}-{name}-{width}-{scheme}.png")
        print(f"{kind}-{name}-{width}-{scheme}", flush=True)
    context.close()


def _drawn(page: Page) -> None:
    page.wait_for_selector("h1")
    page.wait_for_timeout(300)
    page.wait_for_selector("[data-test-script-state=notRunning]")


if __name__ == "__main__":
    main()
