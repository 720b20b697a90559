"""The panel that records an ablation: choose a size, start, watch, cancel; or copy the command.

Contract: one recording at a time, shared by all browser tabs; a failure shows the command's own
last words as plain text. Where recording is switched off (`--no-record`) nothing can be started.
Boundary: Streamlit only; the process is `dashboard.recording`'s.
"""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from dashboard.recording import Recorder, Recording, Request
from dashboard.words import command_line, literal

PRESETS = {
    "llama-7b": "the paper's size, 4096 x 4096",
    "llama-1b": "2048 x 2048",
    "llama-160m": "768 x 768",
    "llama-tiny": "a few seconds, to see how it works",
}
MAY_RECORD = "may_record"  # session key: whether a button may start a process
OPENED = "opened_by_recording"  # session key: the run to choose after a recording


@st.cache_resource
def _recorder(root: str) -> Recorder:
    return Recorder(Path(root))


def recorder(root: Path) -> Recorder:
    """The recorder of this runs folder, the same in every browser tab."""
    return _recorder(str(root))


def record_panel(root: Path) -> None:
    """Choice of size, button and command; or the recording that is under way."""
    if may_record() and recorder(root).current is not None:
        _watch(root)
        return
    model = st.selectbox(
        "Size of the matrix", list(PRESETS), key="preset",
        format_func=lambda name: f"{name}: {PRESETS[name]}",
    )  # fmt: skip
    request = Request(model=model)
    if not may_record():
        st.caption("Recording from here is switched off (--no-record). In a terminal:")
    else:
        if st.button("Record the attn0 ablation", type="primary", key="record"):
            start(root, request)
        st.caption("Or in a terminal, in the folder of this project:")
    st.code(command_line(request.arguments(root / "my-run")), language="sh")


def may_record() -> bool:
    """Whether the one who started the dashboard lets it start a process."""
    return bool(st.session_state.get(MAY_RECORD, True))


def start(root: Path, request: Request) -> None:
    """Starts recording and redraws the page."""
    if not may_record():
        return
    try:
        recorder(root).start(request)
    except OSError as error:
        st.error(f"The recording could not start: {literal(error)}")
        return
    st.rerun()


@st.fragment(run_every="1s")
def _watch(root: Path) -> None:
    """The recording under way; redraws the whole page once when it has ended."""
    current = recorder(root).current
    if current is None:
        return
    state = current.state
    if state == "running":
        _progress(current)
        return
    if state == "done":
        st.session_state[OPENED] = current.folder.name
        recorder(root).forget()
        st.rerun()
    _ended(root, current, state)


def _progress(current: Recording) -> None:
    rows, total = current.rows, len(current.request.configs)
    done = f"{len(rows)} of {total} configurations measured, {current.seconds:.0f} s"
    st.progress(min(1.0, len(rows) / total), text=done)
    if current.cancelled_at is not None:
        st.caption("Stopping; what is measured stays readable.")
    elif st.button("Cancel", key="cancel"):
        current.cancel()
        st.rerun(scope="fragment")


def _ended(root: Path, current: Recording, state: str) -> None:
    if state == "cancelled":
        kept = len(current.rows)
        st.info(f"Cancelled. Configurations measured and kept: {kept}.")
    else:
        st.error("The recording failed. Its last words:")
        st.code(current.log or "(none)", language=None, wrap_lines=True)
    if st.button("Continue", key="forget"):
        if current.rows:
            st.session_state[OPENED] = current.folder.name
        recorder(root).forget()
        st.rerun()
