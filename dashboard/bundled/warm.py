"""`profiler.trace` in a process that has imported the model's library before.

Contract: the same command line. Without it, seconds of imports would be the longest part of the
first step, and the whole run's timeline a flat line.
Boundary: starts the command; the recording is its own.
"""

import runpy

import transformers.models.llama.modeling_llama  # noqa: F401

if __name__ == "__main__":
    runpy.run_module("profiler.trace", run_name="__main__", alter_sys=True)
