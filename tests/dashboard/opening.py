"""One page of the app under AppTest, and what it says."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

APP = Path(__file__).parents[2] / "dashboard" / "app.py"


def opened(
    root: Path, page: str, monkeypatch: pytest.MonkeyPatch, *options: str, **query: str
) -> AppTest:
    """The page over the runs under ``root``, with these options and this address."""
    monkeypatch.setattr(sys, "argv", ["app.py", "--runs", str(root), *options])
    app = AppTest.from_file(str(APP), default_timeout=120)
    for key, value in query.items():
        app.query_params[key] = value
    app.run()
    app.switch_page(f"app_pages/{page}.py").run()
    assert not app.exception, [each.value for each in app.exception]
    return app


def words(app: AppTest) -> str:
    """Its text, without Markdown's escapes."""
    parts = [*app.markdown, *app.warning, *app.info, *app.error, *app.caption, *app.success]
    return re.sub(r"\\(.)", r"\1", "\n".join(str(part.value) for part in parts))


def metric(app: AppTest, label: str) -> Any:
    """The figure under that label."""
    return next(each for each in app.metric if each.label == label)
