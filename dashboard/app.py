"""The dashboard: `streamlit run dashboard/app.py -- --runs runs/`.

Contract: listens on localhost unless told otherwise; reads nothing outside the folder of runs. The
run and the step are chosen here, once for all pages.
Boundary: chooses the folder and the page; each page is a module of `app_pages`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import streamlit as st

from dashboard.data import runs_folder
from dashboard.frame import ROOT, pick_run, pick_step

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
    "Compare": {"optimizations": "Optimizations"},
    "Learn": {
        "learn_saves": "What autograd saves",
        "learn_storages": "Tensor, view, storage",
    },
    "About": {"methods": "Methods"},
}
STEPS = ("Explore", "Learn")  # sections whose pages look at one step


def main() -> None:
    """Draws the sidebar and the chosen page."""
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    parser.add_argument("--runs", default="runs/")
    known, _ = parser.parse_known_args(sys.argv[1:])
    st.session_state[ROOT] = runs_folder(known.runs).root
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
    page = st.navigation({section: found for section, found in pages.items() if found})
    pick_run()
    if any(page is each for section in STEPS for each in pages[section]):
        pick_step()
    page.run()


main()
