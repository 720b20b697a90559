"""The pages in a real browser: they draw, answer clicks, and the console is quiet."""

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
from tests.dashboard.runs import write_ablation
from tests.profiler.reports import samples

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not CHROMIUM.exists(), reason=f"{CHROMIUM} is missing: apt install chromium"
    ),
]
WIDTHS = [(1280, "light"), (1920, "dark")]
PAGES = {
    "Overview": "What was the peak, and who owns it?",
    "Timeline": "When was the memory held?",
    "Where": "Which module and which line keeps it?",
    "Duplicates": "What is held or sent twice?",
    "Graph": "Why is it kept?",
    "Traffic": "What crossed to the host and back?",
    "Optimizations": "What does each optimization save, and what does it cost?",
    "What autograd saves": "What does autograd save?",
    "Tensor, view, storage": "When are two tensors one piece of memory?",
    "Methods": "How is it measured, and what is not seen?",
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def hand_written(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The dashboard over an ablation with known figures."""
    folder = tmp_path_factory.mktemp("runs")
    write_ablation(folder, "attn0", samples.ablation())
    with serving(folder, tmp_path_factory.mktemp("log") / "server") as address:
        yield address


@pytest.fixture(scope="module")
def traced(recorded: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The dashboard over runs that the tracer recorded."""
    with serving(recorded, tmp_path_factory.mktemp("log") / "server") as address:
        yield address


@pytest.fixture(params=WIDTHS, ids=["1280-light", "1920-dark"])
def page(
    request: pytest.FixtureRequest, browser: Browser, hand_written: str, tmp_path: Path
) -> Iterator[Page]:
    """The page of optimizations, reached by its link."""
    width, scheme = request.param
    with quiet_page(browser, hand_written, width, scheme) as page:
        page.goto(hand_written)
        _open(page, "Optimizations")
        yield page
        page.screenshot(path=screenshots(tmp_path) / f"optimizations-{width}.png", full_page=True)


@pytest.fixture(params=WIDTHS, ids=["1280-light", "1920-dark"])
def explorer(request: pytest.FixtureRequest, browser: Browser, traced: str) -> Iterator[Page]:
    """The first page over recorded runs, on the script's first step."""
    width, scheme = request.param
    with quiet_page(browser, traced, width, scheme) as page:
        page.goto(f"{traced}/?run=script&step=0")
        yield page


def _open(page: Page, name: str) -> None:
    page.get_by_test_id("stSidebarNav").get_by_role("link", name=name, exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text(PAGES[name])
    _settled(page)


def _settled(page: Page) -> None:
    """Waits until the script has run."""
    expect(page.locator("[data-test-script-state=notRunning]")).to_have_count(1)


def _metric(page: Page, label: str) -> Locator:
    return page.get_by_test_id("stMetric").filter(has_text=label)


def test_toggles_change_the_figures(page: Page) -> None:
    host = _metric(page, "Host, MiB")
    expect(host).to_contain_text("1600.0")
    charts = page.get_by_test_id("stVegaLiteChart")
    expect(charts).to_have_count(3)
    for index in range(3):
        expect(charts.nth(index).locator("canvas, svg").first).to_be_visible()
    before = charts.first.screenshot()
    for name, figure in (("M", "544.0"), ("U", "97.0"), ("S", "12.1")):
        page.get_by_test_id("stCheckbox").filter(has_text=name).first.click()
        expect(host).to_contain_text(figure)
    assert "simulated" in _metric(page, "D2H, MiB").inner_text()
    page.wait_for_function("location.href.includes('M=true')")
    expect(page.get_by_alt_text("Autograd graph").first).to_be_visible()
    assert charts.first.screenshot() != before


def test_a_shared_url_opens_the_same_view(browser: Browser, hand_written: str) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.goto(f"{hand_written}/optimizations?run=attn0&M=true&S=true")
    expect(_metric(page, "Host, MiB")).to_contain_text("68.0")
    context.close()


def test_a_combination_that_was_not_recorded_is_offered(page: Page) -> None:
    box = page.get_by_test_id("stCheckbox").filter(has_text="U").first
    said = page.get_by_text("This run did not record U")
    until(
        lambda: None if box.locator("input").is_checked() else box.click(),
        lambda: expect(said).to_be_visible(timeout=SOON),
    )
    expect(page.get_by_role("button", name="Record it")).to_be_visible()


def test_a_line_of_the_duplicates_shows_its_tensors(explorer: Page) -> None:
    _open(explorer, "Duplicates")
    heading = explorer.get_by_role("heading", name="The tensors of storage")
    before = heading.inner_text()
    table = explorer.get_by_test_id("stDataFrame").first
    until(
        lambda: table.click(position={"x": 20, "y": 38 + 35 + 17}),
        lambda: expect(heading).not_to_have_text(before, timeout=SOON),
    )


def test_a_box_of_the_graph_shows_what_it_saves(explorer: Page) -> None:
    _open(explorer, "Graph")
    heading = explorer.get_by_role("heading", name="Saved by")
    before = heading.inner_text()
    chart = explorer.get_by_test_id("stEChartsChart").locator("canvas").first
    box = chart.bounding_box()
    assert box is not None
    explorer.wait_for_timeout(1500)  # positions are final once the chart has faded in

    def click() -> None:
        for share in (0.5, 0.46, 0.43, 0.4, 0.54):  # the last level is a single box: the loss
            chart.click(position={"x": box["width"] * share, "y": box["height"] - 31})
            explorer.wait_for_timeout(500)
            if heading.inner_text() != before:
                break

    until(click, lambda: expect(heading).not_to_have_text(before, timeout=SOON))


def test_traffic_turns_around(explorer: Page, traced: str) -> None:
    explorer.goto(f"{traced}/?run=script&step=1")
    _open(explorer, "Traffic")
    expect(_metric(explorer, "D2H, MiB/s")).to_contain_text("\N{EN DASH}")
    explorer.get_by_text("back, in backward", exact=True).first.click()
    expect(explorer.locator(".st-key-streams-h2d")).to_have_count(1)


def test_a_prediction_opens_the_chart(explorer: Page) -> None:
    _open(explorer, "What autograd saves")
    expect(explorer.get_by_test_id("stVegaLiteChart")).to_have_count(0)
    explorer.get_by_test_id("stRadio").get_by_text("its result", exact=True).click()
    expect(explorer.get_by_test_id("stVegaLiteChart")).to_have_count(1)
