"""What every test shares: shape checks, one thread, no deadlines, and the real data.

Contract: importing `edkm` in a test checks every annotated tensor shape at call time.
Boundary: fixtures of one package belong in that package's own conftest.
"""

from __future__ import annotations

import gc
import os
from pathlib import Path

import jaxtyping
import pytest
from hypothesis import settings

# Before the first import of the package, or its functions stay unchecked. The bare dotted name:
# the parenthesised form of beartype skips packages without saying so.
jaxtyping.install_import_hook(["edkm"], "beartype.beartype")

import torch  # noqa: E402

# Two threads on a shared machine make short tests long, and reductions irreproducible.
torch.set_num_threads(1)

# No timed assertion anywhere, hypothesis' own deadline included. CI tries the same examples every
# time; everybody else tries new ones.
settings.register_profile(
    "project", deadline=None, print_blob=True, derandomize=bool(os.environ.get("CI"))
)
settings.load_profile("project")

REPOSITORY = Path(__file__).resolve().parent.parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first, so that no process waits for one at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    """Leave what was imported out of garbage collection: tests that collect took seconds of it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def realdata() -> Path:
    """The folder of checkpoints and texts: $EDKM_DATA, or ../shared/data beside the checkout."""
    named = os.environ.get("EDKM_DATA")
    folder = Path(named) if named else REPOSITORY.parent / "shared" / "data"
    if not (folder / "models").is_dir():
        pytest.skip(f"no real data at {folder}: set EDKM_DATA to a folder with models/ and text/")
    return folder
