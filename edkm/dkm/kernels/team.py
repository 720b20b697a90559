"""One C function run by the threads that torch's own operations run on.

Contract: ``run(member, argument, threads)`` calls the function at address ``member`` with
``argument`` from at most ``threads`` threads at once, the caller's among them, and returns when
all are done: the OpenMP team of the calling thread where torch has one that can be reached, else
ordinary threads. Any number of calls has to do all of the work: how many there are is not said.
Why torch's own: after each operation its threads wait for the next in a loop for some
milliseconds, and any other thread has to fight them for a core (`benchmarks/dkm.py --block`).
Boundary: which thread runs; the work and its parts are the function's.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import torch

_MEMBER = ctypes.CFUNCTYPE(None, ctypes.c_void_p)  # calls let go of the interpreter lock
_PROCESS = os.getpid()  # a forked process has none of the runtime's threads


def run(member: int, argument: int, threads: int) -> None:
    """``member(argument)`` in every thread of the team; see the module's contract."""
    parallel = _parallel() if threads > 1 and os.getpid() == _PROCESS else None
    if parallel is not None:
        parallel(member, argument, threads, 0)
        return
    call = _MEMBER(member)
    helpers = []
    if threads > 1:
        pool = _pool(os.getpid(), threads - 1)
        helpers = [pool.submit(call, argument) for _ in range(threads - 1)]
    call(argument)
    for helper in helpers:
        if not helper.cancel():  # one that has not begun is not needed any more
            helper.result()


@lru_cache(maxsize=1)
def _parallel() -> Callable[..., Any] | None:
    """``GOMP_parallel`` of the OpenMP runtime that torch loaded, None where there is none."""
    if "OpenMP" not in torch.__config__.parallel_info():
        return None
    try:
        runtime = ctypes.CDLL("libgomp.so.1", mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
        parallel = runtime.GOMP_parallel
    except (OSError, AttributeError):
        return None
    parallel.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
    parallel.restype = None
    found: Callable[..., Any] = parallel
    return found


@lru_cache(maxsize=2)
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Threads kept for the next pass; a forked process makes its own."""
    return ThreadPoolExecutor(threads, thread_name_prefix="edkm-pass")
