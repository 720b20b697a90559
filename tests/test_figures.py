"""The figures that the README quotes are those of the committed results."""

from __future__ import annotations

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_readme_quotes_the_results() -> None:
    spec = importlib.util.spec_from_file_location("figures", ROOT / "benchmarks" / "figures.py")
    assert spec is not None and spec.loader is not None
    figures = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(figures)
    text = (ROOT / "README.md").read_text()
    assert "| M+U+S | 12.1 | 12 |" in figures.figures()
    assert text == figures.replaced(text), "run: python benchmarks/figures.py --write"
