"""Lessons and the details of explore pages in a real browser: drawn, clicked, dragged, moved."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.dashboard.browsing import (
    CHROMIUM,
    SOON,
    chromium,
    quiet_page,
    screenshots,
    serving,
    until,
)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not CHROMIUM.exists(), reason=f"{CHROMIUM} is missing: apt install chromium"
    ),
]
WIDTHS = [(1280, "light"), (1920, "dark")]
LESSONS = {  # page: title, guess, what a slider does to the words
    "learn-devices": ("How often does one tensor cross to the host?", "three times"),
    "learn-offload": ("Does offloading cost time? (simulated bus)", "the same part"),
    "learn-kmeans": (
        "How can a gradient pass through clustering?",
        "weights of other clusters too",
    ),
    "learn-edkm": ("What does eDKM keep for backward?", "50 times"),
}


@pytest.fixture(scope="module")
def traced(recorded: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(recorded, tmp_path_factory.mktemp("log") / "server") as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=60_000)  # the first page waits for imports, on a loaded machine
    with chromium() as found:
        yield found


@pytest.fixture(scope="module", params=WIDTHS, ids=["1280-light", "1920-dark"])
def page(request: pytest.FixtureRequest, browser: Browser, traced: str) -> Iterator[Page]:
    """One visit for all tests of a width; each goes to a page of its own."""
    width, scheme = request.param
    with quiet_page(browser, traced, width, scheme) as page:
        page.goto(f"{traced}/?run=script&step=1")
        settled(page)
        yield page


def settled(page: Page) -> None:
    expect(page.locator("[data-test-script-state=notRunning]")).to_have_count(1)


def open_page(page: Page, path: str, title: str) -> None:
    page.get_by_test_id("stSidebarNav").locator(f"a[href*='/{path}']").first.click()
    expect(page.get_by_role("heading", level=1)).to_have_text(title)
    settled(page)


def picture(page: Page, name: str, folder: Path) -> None:
    size = page.viewport_size
    assert size is not None
    page.set_viewport_size({"width": size["width"], "height": 2400})
    page.wait_for_timeout(700)  # charts fade in; only the picture needs it
    page.screenshot(path=screenshots(folder) / f"{name}-{size['width']}.png")
    page.set_viewport_size(size)


def slid(page: Page, number: int, steps: int) -> None:
    """Moves a slider of the page by so many places."""
    thumb = page.get_by_role("slider").nth(number)
    thumb.focus()
    for _ in range(abs(steps)):
        page.keyboard.press("ArrowRight" if steps > 0 else "ArrowLeft")
    settled(page)


def answer(page: Page) -> Locator:
    return page.get_by_test_id("stAlert").first


def charts(page: Page) -> Locator:
    return page.get_by_test_id("stVegaLiteChart").locator("canvas, svg")


@pytest.mark.parametrize("path", LESSONS)
def test_a_lesson_answers_and_follows_its_slider(page: Page, path: str, tmp_path: Path) -> None:
    title, truth = LESSONS[path]
    open_page(page, path, title)
    drawn = charts(page).count()
    page.get_by_test_id("stRadio").get_by_text(truth, exact=True).click()
    expect(answer(page)).to_contain_text("Yes.")
    expect(charts(page)).to_have_count(drawn + 1)
    picture(page, path, tmp_path)
    before = answer(page).inner_text()
    slid(page, {"learn-kmeans": 1}.get(path, 0), -1)
    expect(answer(page)).not_to_have_text(before)
    expect(page.get_by_role("heading", name="In your run")).to_be_visible()


def test_a_span_of_the_map_is_drawn_larger(page: Page, tmp_path: Path) -> None:
    open_page(page, "timeline", "When was the memory held?")
    expect(charts(page)).to_have_count(2)
    large = page.get_by_test_id("stVegaLiteChart").nth(1)
    before = large.screenshot()
    box = charts(page).first.bounding_box()
    assert box is not None
    y = box["y"] + box["height"] / 3
    span = page.get_by_role("heading", name="of the span")

    def drag() -> None:
        page.mouse.move(box["x"] + box["width"] * 0.9, y)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * 0.99, y, steps=5)
        page.mouse.up()

    until(drag, lambda: expect(span).to_be_visible(timeout=SOON))
    settled(page)
    picture(page, "timeline-span", tmp_path)
    assert large.screenshot() != before
    until(
        lambda: page.mouse.dblclick(box["x"] + box["width"] * 0.95, y),
        lambda: expect(span).to_have_count(0, timeout=SOON),
    )


def test_a_group_is_drawn_as_a_graph(page: Page, tmp_path: Path) -> None:
    open_page(page, "duplicates", "What is held or sent twice?")
    graph = page.get_by_test_id("stGraphVizChart")
    expect(graph.locator("svg g.node").first).to_be_visible()
    before = graph.inner_text()
    picture(page, "duplicates-group", tmp_path)
    table = page.get_by_test_id("stDataFrame").first
    until(
        lambda: table.click(position={"x": 20, "y": 38 + 35 + 17}),
        lambda: expect(graph).not_to_have_text(before, timeout=SOON),
    )


def test_a_node_is_drawn_with_what_is_around_it(page: Page, tmp_path: Path) -> None:
    open_page(page, "graph", "Why is it kept?")
    page.get_by_text("1 deep").click()
    settled(page)
    graph = page.get_by_test_id("stGraphVizChart")
    expect(graph.locator("svg g.node").first).to_be_visible()
    before = graph.inner_text()
    picture(page, "graph-node", tmp_path)
    page.get_by_role("combobox", name="Node of the chosen box").click()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(graph).not_to_have_text(before)


def test_copies_are_drawn_over_time(page: Page, tmp_path: Path) -> None:
    open_page(page, "traffic", "What crossed to the host and back?")
    expect(page.get_by_text("0 % of that was hidden")).to_be_visible()
    expect(charts(page)).to_have_count(1)
    picture(page, "traffic-lanes", tmp_path)
