"""Keep quiet what libraries say while they are imported and no user can act on.

Contract: ``quiet_imports`` filters two messages, before transformers is imported, and nothing
else: where torchao is installed, transformers imports it, and torchao tries to load all that its
wheel holds, kernels for CUDA included; and its enums register with torch in a way that torch will
drop. With CUDA the first message stays, for there it tells of missing kernels.
Boundary: no level is changed and no logger is replaced.
"""

from __future__ import annotations

import logging
import re

import torch

_KERNELS = re.compile(r"Failed to load .*_C_(cutlass|mxfp8)\w*\.")
_ENUMS = re.compile(r".*Calling register_constant\(\) on Enum subclasses is deprecated")


class _Without(logging.Filter):
    """Lets everything pass but what the pattern matches."""

    def __init__(self, pattern: re.Pattern[str]) -> None:
        super().__init__()
        self.pattern = pattern

    def filter(self, record: logging.LogRecord) -> bool:
        return self.pattern.match(record.getMessage()) is None


def quiet_imports() -> None:
    """Call it before transformers is imported; again does nothing."""
    chosen = [("torch.utils._pytree", _ENUMS)]
    if not torch.cuda.is_available():
        chosen.append(("torchao", _KERNELS))
    for name, pattern in chosen:
        logger = logging.getLogger(name)
        if not any(isinstance(one, _Without) for one in logger.filters):
            logger.addFilter(_Without(pattern))
