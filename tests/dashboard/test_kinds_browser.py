"""Every page over every kind of run in a real browser: it draws or explains, and nothing fails."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from dashboard.bundled import RECORDED
from tests.dashboard.browsing import CHROMIUM, SOON, chromium, quiet_page, serving, until
from tests.dashboard.kinds import KINDS, every_kind

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not CHROMIUM.exists(), reason=f"{CHROMIUM} is missing: apt install chromium"
    ),
]
EXPLORE = {
    "overview": "What was the peak, and who owns it?",
    "timeline": "When was the memory held?",
    "where": "Which module and which line keeps it?",
    "duplicates": "What is held or sent twice?",
    "graph": "Why is it kept?",
    "traffic": "What crossed to the host and back?",
}
COMPARE = {
    "optimizations": "What does each optimization save, and what does it cost?",
    "compare-runs": r"Why is (B .* than A|one run higher than another)\?|What does B hold .*\?",
    "compare-whatif": "Will it fit?",
}
OTHERS = {
    "method-clustering": "What do DKM's centroids do?",
    "method-quality": "What does compression cost?",
    "learn-saves": "What does autograd save?",
    "learn-storages": "When are two tensors one piece of memory?",
    "learn-devices": "How often does one tensor cross to the host?",
    "learn-offload": "Does offloading cost time? (simulated bus)",
    "learn-kmeans": "How can a gradient pass through clustering?",
    "learn-edkm": "What does eDKM keep for backward?",
    "methods": "How is it measured, and what is not seen?",
}
# A kind of run, the pages that look at it, and what to look at them with.
VIEWS = [
    (kind, {**EXPLORE, **COMPARE, **(OTHERS if kind == "finetune" else {})}, *look)
    for kind, look in zip(KINDS, [(1280, "light"), (1920, "dark")] * len(KINDS), strict=False)
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The dashboard over a run of every kind."""
    log = tmp_path_factory.mktemp("log") / "server"
    with every_kind(tmp_path_factory.mktemp("runs")) as root, serving(root, log) as found:
        yield found


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The dashboard at its first start: no run, and nothing may be recorded."""
    log = tmp_path_factory.mktemp("log") / "server"
    with serving(tmp_path_factory.mktemp("empty"), log, "--no-record") as found:
        yield found


def visit(page: Page, name: str, heading: str) -> None:
    """Goes to a page by its link and waits until it is drawn."""
    link = "/" if name == "overview" else f"/{name}"
    page.get_by_test_id("stSidebarNav").locator(f"a[href$='{link}']").click()
    settled(page, heading)


def settled(page: Page, heading: str) -> None:
    pattern = heading if "|" in heading else re.escape(heading)
    expect(page.get_by_role("heading", level=1)).to_have_text(re.compile(f"^({pattern})$"))
    expect(page.locator("[data-test-script-state=notRunning]")).to_have_count(1)
    expect(page.get_by_test_id("stException")).to_have_count(0)


@pytest.mark.parametrize(("kind", "pages", "width", "scheme"), VIEWS, ids=KINDS)
def test_every_page_opens_over_every_kind_of_run(
    browser: Browser, address: str, kind: str, pages: dict[str, str], width: int, scheme: str
) -> None:
    with quiet_page(browser, address, width, scheme) as page:
        page.goto(f"{address}/?run={kind}")
        settled(page, EXPLORE["overview"])
        for name, heading in pages.items():
            visit(page, name, heading)
            expect(page.get_by_role("combobox", name="Run", exact=True)).to_have_value(kind)
            page.wait_for_timeout(100)  # late errors of charts
            if folder := os.environ.get("SCREENSHOTS"):
                page.wait_for_timeout(800)  # charts fade in
                page.screenshot(path=Path(folder) / f"{kind}-{name}-{width}.png", full_page=True)
        if kind in ("live", "killed"):
            visit(page, "overview", EXPLORE["overview"])
            expect(page.get_by_test_id("stAlert").first).to_contain_text("not closed")


def test_the_first_start_is_full_of_life(browser: Browser, fresh: str) -> None:
    assert len(list(RECORDED.iterdir())) == 5
    with quiet_page(browser, fresh, 1280, "light") as page:
        page.goto(fresh)
        settled(page, EXPLORE["overview"])
        expect(page.get_by_test_id("stSidebar")).to_contain_text("Bundled runs: no run yet")
        expect(page.get_by_test_id("stVegaLiteChart")).to_have_count(1)
        visit(page, "optimizations", COMPARE["optimizations"])
        expect(page.get_by_test_id("stVegaLiteChart")).to_have_count(3)
        page.get_by_test_id("stExpander").filter(has_text="Record another run").click()
        expect(page.get_by_text("switched off (--no-record)")).to_be_visible()
        expect(page.get_by_role("button", name="Record the attn0 ablation")).to_have_count(0)


def test_an_address_restores_the_view(browser: Browser, address: str) -> None:
    """Typed into a new tab: every choice that stands in it holds."""
    with quiet_page(browser, address, 1280, "light") as page:
        page.goto(f"{address}/compare-whatif?run=finetune&step=1&budget=20&offload=*&once=false")
        settled(page, COMPARE["compare-whatif"])
        expect(page.get_by_test_id("stAlert")).to_contain_text("It fits")
        expect(page.get_by_role("combobox", name="Offload to the host")).to_have_value("*")
        page.goto(f"{address}/compare-runs?run=finetune&a=offloaded&a_step=0&step=1")
        settled(page, COMPARE["compare-runs"])
        expect(page.get_by_test_id("stMain")).to_contain_text("A is offloaded, step 0")
        page.goto(f"{address}/method-clustering?bits=2&updates=3&shape=two+groups")
        settled(page, OTHERS["method-clustering"])
        hard = page.get_by_test_id("stMetric").filter(has=page.get_by_text("Hard", exact=True))
        expect(hard).to_contain_text("4")
        page.goto(f"{address}/graph?run=finetune&depth=1+deep")
        settled(page, EXPLORE["graph"])
        expect(page.get_by_test_id("stMain")).to_contain_text("in 4 boxes")
        page.goto(f"{address}/traffic?run=offloaded&direction=back,+in+backward")
        settled(page, EXPLORE["traffic"])
        expect(page.locator(".st-key-streams-h2d")).to_have_count(1)
        page.goto(f"{address}/where?run=finetune&part=model/layers")
        settled(page, EXPLORE["where"])
        expect(page.get_by_role("heading", name="The whole model")).to_have_count(0)


def test_a_click_in_the_icicle_looks_inside_and_back(browser: Browser, address: str) -> None:
    with quiet_page(browser, address, 1280, "light") as page:
        page.goto(f"{address}/?run=finetune")
        settled(page, EXPLORE["overview"])
        visit(page, "where", EXPLORE["where"])
        parts = page.locator("[aria-roledescription='rect mark']")
        whole = page.get_by_role("heading", name="The whole model")
        expect(parts).not_to_have_count(0)  # the chart is drawn after the page has settled
        before = parts.count()
        until(parts.nth(1).click, lambda: expect(whole).to_have_count(0, timeout=SOON))
        page.wait_for_function("location.href.includes('part=')")
        expect(parts).not_to_have_count(before)
        until(parts.first.click, lambda: expect(whole).to_have_count(1, timeout=SOON))
        expect(parts).to_have_count(before)


def test_a_point_of_the_quality_chart_shows_its_row(browser: Browser, address: str) -> None:
    with quiet_page(browser, address, 1280, "light") as page:
        page.goto(f"{address}/?run=finetune")
        settled(page, EXPLORE["overview"])
        visit(page, "method-quality", OTHERS["method-quality"])
        page.wait_for_timeout(500)  # positions are final once the chart has faded in
        shown = page.get_by_role("heading", level=3).first.inner_text()
        points = page.locator("[aria-roledescription=point]")
        for point in reversed(points.all()):  # the last is drawn on top
            about = dict(re.findall(r"(\w+): ([^;]*)", point.get_attribute("aria-label") or ""))
            if about["bits"] != shown:
                break
        heading = page.get_by_role("heading", name=about["bits"], exact=True)
        until(
            lambda: point.click(force=True),  # another point may lie on top of its middle
            lambda: expect(heading).to_be_visible(timeout=SOON),
        )


def test_levers_change_the_figures(browser: Browser, address: str) -> None:
    with quiet_page(browser, address, 1920, "dark") as page:
        page.goto(f"{address}/?run=finetune")
        settled(page, EXPLORE["overview"])
        visit(page, "compare-whatif", COMPARE["compare-whatif"])
        predicted = page.get_by_test_id("stMetric").filter(has_text="Predicted peak")
        before = predicted.inner_text()
        page.get_by_role("combobox", name="Offload to the host").click()
        page.get_by_role("option", name="*", exact=True).click()
        expect(predicted).not_to_have_text(before)
        page.wait_for_function("location.href.includes('offload=')")


def test_data_pictures_and_views_can_be_kept(browser: Browser, address: str) -> None:
    with quiet_page(browser, address, 1280, "light") as page:
        page.goto(f"{address}/?run=attn0")
        settled(page, EXPLORE["overview"])
        with page.expect_download() as report:
            page.get_by_role("button", name="Save this view").click()
        assert "<script" not in report.value.path().read_text(encoding="utf-8")
        visit(page, "optimizations", COMPARE["optimizations"])
        with page.expect_download() as data:
            page.get_by_role("button", name="Data (CSV)").first.click()
        lines = data.value.path().read_text().splitlines()
        assert lines[0] == "row,source,mib,label"
        assert any("what-if at most 98.0 MiB" in line for line in lines)
        with page.expect_download() as view:
            page.get_by_role("button", name="Save this view").click()
        assert "Host memory held for backward" in view.value.path().read_text(encoding="utf-8")
        chart = page.get_by_test_id("stVegaLiteChart").first
        chart.hover()
        with page.expect_download() as picture:
            page.get_by_role("button", name="Download as PNG").first.click()
        assert picture.value.path().read_bytes().startswith(b"\x89PNG")
