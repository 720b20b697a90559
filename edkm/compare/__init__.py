"""One table of every method at its own bits: plan, run, record, report.

Here: `python -m edkm.compare`. Not here: the methods (`edkm.baselines`), measuring
(`edkm.evaluate`).
"""

from edkm.compare.plan import Settings, plan
from edkm.compare.record import Record
from edkm.compare.run import compare

__all__ = ["Record", "Settings", "compare", "plan"]
