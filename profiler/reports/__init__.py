"""Reports of a run: text tables and pictures. They render only: plain data in, text or files out.

Not here: reading a run folder (profiler.query), computing (profiler.analyses).
"""
