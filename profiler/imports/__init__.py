"""Other tools' recordings as run folders: PyTorch memory snapshots.

Here: a reader of pickles that can build plain containers only, and the conversion to rows.
Not here: recording (profiler.tracer) and writing those formats (profiler.exports).
"""

from profiler.imports.snapshot import import_snapshot

__all__ = ["import_snapshot"]
