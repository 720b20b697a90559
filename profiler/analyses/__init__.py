"""Pure functions from the tables of a run to plain results: ledger, duplicates, traffic, lint.

Each result is a frozen dataclass of numbers, text and lists, with `to_json()`.
Not here: reading files (profiler.query) and drawing or printing (profiler.reports).
"""

from profiler.analyses.duplicates import Duplicates, duplicates
from profiler.analyses.ledger import Ledger, ledger
from profiler.analyses.lint import Lint, lint
from profiler.analyses.traffic import Traffic, traffic

__all__ = ["Duplicates", "Ledger", "Lint", "Traffic", "duplicates", "ledger", "lint", "traffic"]
