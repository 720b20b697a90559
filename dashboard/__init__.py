"""The window on recorded runs: pages, charts, and the button that records.

Here: showing. Not here: measuring, reading files around `profiler`, computing in pages.
"""
