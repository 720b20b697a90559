"""Work shared between the threads that torch's own operations run on.

Contract: ``share(work, parts)`` gives ``[work(part) for part in parts]``, run by the OpenMP team of
the calling thread where torch has one that can be reached, else by ordinary threads. ``work`` has
to release the interpreter lock for its long part.
Why torch's own: after each operation its threads wait for the next in a loop for some
milliseconds, and any other thread has to fight them for a core (`benchmarks/dkm.py --block`).
Boundary: which thread does what; sizes of parts are the caller's.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import torch

_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_PROCESS = os.getpid()  # a forked process has none of the runtime's threads


def share(work: Callable[[slice], Any], parts: Sequence[slice], threads: int) -> list[Any]:
    """Results of ``work`` in the order of ``parts``, by at most ``threads`` threads.

    Raises what ``work`` raised first.
    """
    queue = _Queue(work, parts)
    parallel = _parallel() if os.getpid() == _PROCESS else None
    if parallel is not None:
        # the callback must outlive the call, which returns when all threads are done
        member = _CALLBACK(lambda _: queue.drain())
        parallel(member, None, threads, 0)
    else:
        helpers = [_pool(os.getpid(), threads - 1).submit(queue.drain) for _ in range(threads - 1)]
        queue.drain()
        for helper in helpers:
            if not helper.cancel():
                helper.result()
    return queue.results()


class _Queue:
    """Parts that threads take one after another until none is left."""

    def __init__(self, work: Callable[[slice], Any], parts: Sequence[slice]) -> None:
        self._work, self._parts = work, parts
        self._next = iter(range(len(parts)))
        self._lock = threading.Lock()
        self._found: dict[int, Any] = {}
        self._error: BaseException | None = None

    def drain(self) -> None:
        """Take parts until none is left; keeps an error for the caller's thread."""
        while True:
            with self._lock:
                index = None if self._error is not None else next(self._next, None)
            if index is None:
                return
            try:
                self._found[index] = self._work(self._parts[index])
            except BaseException as error:
                self._error = error

    def results(self) -> list[Any]:
        if self._error is not None:
            raise self._error
        return [self._found[index] for index in range(len(self._parts))]


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
    parallel.argtypes = (_CALLBACK, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
    parallel.restype = None
    found: Callable[..., Any] = parallel
    return found


@lru_cache(maxsize=2)
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Threads kept for the next pass; a forked process makes its own."""
    return ThreadPoolExecutor(threads, thread_name_prefix="edkm-pass")
