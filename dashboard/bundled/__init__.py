"""What comes with the dashboard: small runs of our own tracer, and training results, to look at.

Here: the folders, the program that was traced, and `python -m dashboard.bundled`, which makes all
of it again. Not here: anything written by hand; every figure was recorded.
"""

from pathlib import Path

RECORDED = Path(__file__).parent / "recorded"  # run folders, each named bundled-...
RESULTS = Path(__file__).parent / "results"  # JSON files of measured quality
