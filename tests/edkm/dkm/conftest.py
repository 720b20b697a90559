"""Triton's CPU interpreter, in which the kernels are checked where there is no GPU."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from types import ModuleType

import pytest

from edkm.dkm.kernels import choice


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """A module of the kernels' folder, as it would be imported with TRITON_INTERPRET=1."""
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    import triton.language as tl
    from triton.runtime.interpreter import InterpretedFunction

    # Written in Triton themselves, and so compiled ones where Triton was imported before.
    for name in ("sum", "max"):
        monkeypatch.setattr(tl, name, InterpretedFunction(getattr(tl, name).fn))

    def load(name: str) -> ModuleType:
        path = choice.__file__.replace("choice.py", f"{name}.py")
        spec = importlib.util.spec_from_file_location(f"interpreted_{name}", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load
