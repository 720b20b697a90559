"""Two messages of imports are dropped, every other one passes."""

from __future__ import annotations

import logging

import pytest

from edkm.quiet import quiet_imports


@pytest.mark.parametrize("cuda", [False, True])
def test_only_messages_without_a_remedy_are_dropped(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, cuda: bool
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: cuda)
    kernels, enums = logging.getLogger("torchao"), logging.getLogger("torch.utils._pytree")
    for logger in (kernels, enums):
        monkeypatch.setattr(logger, "filters", [])
    monkeypatch.setattr(enums, "propagate", True)
    quiet_imports()
    quiet_imports()
    assert len(kernels.filters) == (0 if cuda else 1) and len(enums.filters) == 1
    kernels.warning("Failed to load /lib/torchao/_C_cutlass_90a.abi3.so: no such library")
    kernels.warning("Failed to load /lib/torchao/_C.abi3.so: no such library")
    enums.warning("<enum 'A'> is one. Calling register_constant() on Enum subclasses is deprecated")
    enums.warning("something else")
    lost = [] if not cuda else ["_C_cutlass_90a"]
    found = [record.getMessage() for record in caplog.records]
    assert len(found) == 2 + len(lost)
    assert all(any(name in message for message in found) for name in [*lost, "_C.", "else"])
