"""The dashboard: `streamlit run dashboard/app.py -- --runs runs/ [--no-record] [--no-bundled]`.

Contract: listens on localhost unless told otherwise; reads nothing outside the folder of runs and
what comes with the package. The run and the step are chosen here, once for all pages.
Boundary: chooses the folder and the page; each page is a module of `app_pages`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

# Wholly, before any chart: Altair looks into it, and must not find what another tab's thread has
# imported half.
import pandas  # noqa: F401
import streamlit as st

from dashboard.data import runs_folder
from dashboard.frame import BUNDLED, ROOT, pick_run, pick_step
from dashboard.panels.export import begin_page, offer_page
from dashboard.panels.record import MAY_RECORD

PAGES = Path(__file__).parent / "app_pages"
SECTIONS = {
    "Explore": {
        "overview": "Overview",
        "timeline": "Timeline",
        "where": "Where",
        "duplicates": "Duplicates",
        "graph": "Graph",
        "traffic": "Traffic",
    },
    "Compare": {
        "optimizations": "Optimizations",
        "compare_runs": "Runs",
        "compare_whatif": "What-if",
    },
    "Method": {"method_clustering": "Clustering", "method_quality": "Quality"},
    "Learn": {
        "learn_saves": "What autograd saves",
        "learn_storages": "Tensor, view, storage",
        "learn_devices": "Duplicates across devices",
        "learn_offload": "Offload and overlap (simulated)",
        "learn_kmeans": "Soft k-means",
        "learn_edkm": "Uniquify, shard, fused",
    },
    "About": {"methods": "Methods"},
}
STEPS = ("Explore", "Learn")  # sections whose pages look at one step
STEP_PAGES = ("compare_runs", "compare_whatif")  # and these


def main() -> None:
    """Draws the sidebar and the chosen page."""
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    parser.add_argument("--runs", default="runs/")
    parser.add_argument("--no-record", action="store_true")
    parser.add_argument("--no-bundled", action="store_true")
    known, _ = parser.parse_known_args(sys.argv[1:])
    st.session_state[ROOT] = runs_folder(known.runs).root
    st.session_state[MAY_RECORD] = not known.no_record
    st.session_state[BUNDLED] = not known.no_bundled
    st.set_page_config(page_title="What autograd saves", layout="wide")
    pages = {
        section: [
            st.Page(
                PAGES / f"{name}.py", title=title, url_path=name.replace("_", "-"),
                default=name == "overview",
            )
            for name, title in names.items()
            if (PAGES / f"{name}.py").exists()
        ]
        for section, names in SECTIONS.items()
    }  # fmt: skip
    page = st.navigation(
        {section: found for section, found in pages.items() if found}, expanded=True
    )
    begin_page()
    pick_run()
    names = [name for section in STEPS for name in SECTIONS[section]] + list(STEP_PAGES)
    if page.url_path in {"", *(name.replace("_", "-") for name in names)}:
        pick_step()
    page.run()
    offer_page()


main()
