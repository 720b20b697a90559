"""Where did it happen: which line of whose code?

Contract: `StackTable.here` gives a small number for the current call stack and describes each
stack once.
Boundary: looks at frames and code only; which module is running is profiler.attribution's.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from types import CodeType, FrameType

from profiler import events, hooks
from profiler.attribution import BOUNDARY, ModuleCall

_DEPTH = 24  # frames of a stack that are kept
_BETWEEN = 2  # frames between a call's boundary and its forward: _wrapped_call_impl, _call_impl


class StackTable:
    """Interned call stacks: an event carries a number, the stack is described once.

    Walking 24 frames at every save would cost more than all the rest of it. So a stack is cut at
    the forward of every module call that is running: while that frame is the same, nothing above
    it can have changed. What lies above is walked once per call.
    """

    def __init__(self, describe: Callable[[events.Stack], None]) -> None:
        self._describe = describe
        self._ids: dict[tuple[int, ...], int] = {}
        self._above_ids: dict[tuple[int, ...], int] = {}
        self._above: list[list[str]] = []
        self._seen: set[CodeType] = set()  # alive, so that none of their ids is used again
        self._describing = threading.RLock()  # held while a stack gets its number

    def here(self, skip: int = 1, running: Sequence[ModuleCall] = ()) -> int:
        """The number of the calling stack, `skip` frames above the caller left out.

        running: the module calls that are running on this thread (ModuleTracker.running).
        """
        first = sys._getframe(skip + 1)
        key, above = self._piece(first, running, len(running) - 1)
        number = self._ids.get(key)
        return self._describe_new(key, above, first) if number is None else number

    def _describe_new(self, key: tuple[int, ...], above: int, first: FrameType) -> int:
        with self._describing:
            if (number := self._ids.get(key)) is not None:
                return number
            frames = self._texts(first, len(key) // 2)
            frames += self._above[above] if above >= 0 else []
            number = self._ids[key] = len(self._ids)
            self._describe(events.Stack(stack_id=number, frames=frames[:_DEPTH]))
            return number

    def _piece(
        self, frame: FrameType | None, running: Sequence[ModuleCall], depth: int
    ) -> tuple[tuple[int, ...], int]:
        """The frames up to the forward of `running[depth]`, and the number of those above it.

        The key holds two numbers per frame and, where a call was met, the number of the rest.
        """
        call = running[depth] if depth >= 0 else None
        if call is not None and call.forward is None:
            self._find_forward(frame, running, depth)
        stop = None if call is None else call.forward
        key: list[int] = []
        for _ in range(_DEPTH):
            if frame is None:
                break
            key += (id(frame.f_code), frame.f_lasti)
            if frame is stop and call is not None:
                key.append(call.above)
                return tuple(key), call.above
            frame = frame.f_back
        return tuple(key), -1

    def _find_forward(
        self, frame: FrameType | None, running: Sequence[ModuleCall], depth: int
    ) -> None:
        """Find the frame of the call's own code, which runs below its boundary, and what is above.

        Where the call was made in another way, no frame is noted and the stack is walked whole.
        """
        call = running[depth]
        below: list[FrameType] = []
        while frame is not None and frame is not call.frame:
            below.append(frame)
            frame = frame.f_back
        if frame is not None and len(below) > _BETWEEN:
            call.forward = below[-1 - _BETWEEN]
            call.above = self._above_number(call.forward.f_back, running, depth - 1)

    def _above_number(
        self, frame: FrameType | None, running: Sequence[ModuleCall], depth: int
    ) -> int:
        key, above = self._piece(frame, running, depth)
        if (known := self._above_ids.get(key)) is not None:
            return known
        with self._describing:  # two threads may each number the same frames
            texts = self._texts(frame, len(key) // 2)
            texts += self._above[above] if above >= 0 else []
            number = self._above_ids[key] = len(self._above)
            self._above.append(texts[:_DEPTH])
            return number

    def _texts(self, frame: FrameType | None, count: int) -> list[str]:
        texts = []
        for _ in range(count):
            assert frame is not None
            code = frame.f_code
            self._seen.add(code)
            if code is not BOUNDARY and code.co_filename != hooks.__file__:
                line = _line(code, frame.f_lasti)
                texts.append(f"{code.co_filename}:{line}:{code.co_qualname}")
            frame = frame.f_back
        return texts


def _line(code: CodeType, lasti: int) -> int:
    """The line of an instruction; only looked up when a stack is seen for the first time."""
    for start, stop, line in code.co_lines():
        if start <= lasti < stop and line is not None:
            return line
    return code.co_firstlineno
