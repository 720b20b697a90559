"""Each export opens by the rules of the tool that reads it."""

from __future__ import annotations

import collections
import io
import json
import pickle
import pickletools
import re
from pathlib import Path
from typing import Any

import networkx as nx
import pytest

from profiler.exports import FORMATS, export, limits
from profiler.query import Run
from profiler.store import RunWriter
from tests.profiler.exports.samples import HOSTILE, sample


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return sample(tmp_path_factory.mktemp("exports") / "run")


def read(run: Run, kind: str, tmp_path: Path) -> bytes:
    return export(run, kind, tmp_path / "out").read_bytes()


# Perfetto and chrome://tracing


def events(run: Run, tmp_path: Path) -> list[dict[str, Any]]:
    whole = json.loads(read(run, "perfetto", tmp_path))
    assert set(whole) == {"displayTimeUnit", "traceEvents"}
    return list(whole["traceEvents"])


def test_every_event_has_what_its_phase_needs(run: Run, tmp_path: Path) -> None:
    needed = {
        "X": {"name", "pid", "tid", "ts", "dur"}, "C": {"name", "pid", "ts", "args"},
        "i": {"name", "pid", "tid", "ts", "s"}, "s": {"id", "name", "cat", "pid", "tid", "ts"},
        "f": {"id", "name", "cat", "pid", "tid", "ts", "bp"}, "M": {"name", "pid", "args"},
    }  # fmt: skip
    found = events(run, tmp_path)
    assert {event["ph"] for event in found} == set(needed)
    for event in found:
        assert needed[event["ph"]] <= set(event)
        assert event.get("ts", 0) >= 0 and event.get("dur", 0) >= 0
        assert isinstance(event["pid"], int) and isinstance(event.get("tid", 0), int)


def test_slices_of_a_thread_nest(run: Run, tmp_path: Path) -> None:
    threads: dict[Any, list[Any]] = collections.defaultdict(list)
    for event in events(run, tmp_path):
        if event["ph"] == "X":
            threads[event["pid"], event["tid"]].append(event)
    for slices in threads.values():
        open_ends: list[float] = []
        for event in slices:  # already in order of time, the longer first
            while open_ends and open_ends[-1] <= event["ts"] + 1e-9:
                open_ends.pop()
            end = event["ts"] + event["dur"]
            assert not open_ends or end <= open_ends[-1] + 1e-9
            open_ends.append(end)


def test_flows_join_a_save_with_its_unpack_within_slices(run: Run, tmp_path: Path) -> None:
    found = events(run, tmp_path)
    starts = {e["id"]: e for e in found if e["ph"] == "s"}
    ends = {e["id"]: e for e in found if e["ph"] == "f"}
    assert set(starts) == set(ends) and len(starts) == 2  # one in each rank
    for flow in [*starts.values(), *ends.values()]:
        assert isinstance(flow["id"], int)
        assert any(
            e["ph"] == "X" and (e["pid"], e["tid"]) == (flow["pid"], flow["tid"])
            and e["ts"] <= flow["ts"] <= e["ts"] + e["dur"]
            for e in found
        )  # fmt: skip
    assert all(e["bp"] == "e" for e in ends.values())


def test_counters_have_one_key_and_memory_events_kinetos_names(run: Run, tmp_path: Path) -> None:
    found = events(run, tmp_path)
    counters = [e for e in found if e["ph"] == "C"]
    assert all(len(e["args"]) == 1 for e in counters)
    assert {"saved_bytes", "rss_bytes", "host_bytes"} <= {e["name"] for e in counters}
    memory = [e for e in found if e["ph"] == "i" and e["pid"] == 0]
    assert all(e["name"] == "[memory]" for e in memory)
    names = {"Device Type", "Device Id", "Addr", "Bytes", "Total Allocated", "Total Reserved"}
    assert all(set(e["args"]) == names for e in memory)
    cpu = [e["args"]["Total Allocated"] for e in memory if e["args"]["Device Type"] == 0]
    assert cpu == [16, 48, 48, 32]


def test_simulated_copies_are_labelled(run: Run, tmp_path: Path) -> None:
    names = {e["name"] for e in events(run, tmp_path) if e["name"].startswith("d2h")}
    assert names == {"d2h (simulated)", "d2h (simulated, peer)"}


def test_times_are_microseconds_from_the_first_event(run: Run, tmp_path: Path) -> None:
    (step,) = [
        e for e in events(run, tmp_path) if e["name"] == "step 0 (M)" and e["pid"] == 1
    ]  # fmt: skip
    assert (step["ts"], step["dur"]) == (0.79, 9.2)  # the first storage was born at 10 ns


# PyTorch snapshot

# What the unpickler of memory_viz knows.
OPCODES = {
    "PROTO", "FRAME", "EMPTY_DICT", "EMPTY_LIST", "MEMOIZE", "MARK", "SHORT_BINUNICODE",
    "BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1", "SETITEMS", "SETITEM", "APPENDS",
    "APPEND", "BINGET", "LONG_BINGET", "NEWTRUE", "NEWFALSE", "NONE", "STOP",
}  # fmt: skip


class PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        raise AssertionError(f"the snapshot must hold plain data, not {module}.{name}")


def snapshot(run: Run, tmp_path: Path) -> dict[str, Any]:
    content = read(run, "snapshot", tmp_path)
    assert {op.name for op, _, _ in pickletools.genops(content)} <= OPCODES
    assert content[:2] == b"\x80\x04"
    found: dict[str, Any] = PlainUnpickler(io.BytesIO(content)).load()
    return found


def test_blocks_tile_their_segment(run: Run, tmp_path: Path) -> None:
    found = snapshot(run, tmp_path)
    assert found["profiler_devices"] == [
        "rank 0, cpu", "rank 0, cuda:0", "rank 1, cpu", "rank 1, cuda:0",
    ]  # fmt: skip
    for device, segment in enumerate(found["segments"]):
        assert segment["device"] == device
        address = segment["address"]
        for block in segment["blocks"]:
            assert block["address"] == address and block["size"] > 0
            address += block["size"]
        assert address == segment["address"] + segment["total_size"] < 2**53
        active = [b["size"] for b in segment["blocks"] if b["state"] == "active_allocated"]
        assert sum(active) == segment["allocated_size"]


def test_events_replay_to_the_segments(run: Run, tmp_path: Path) -> None:
    """As the viewer does: every free finds its allocation, what is left is active at the end."""
    found = snapshot(run, tmp_path)
    categories = {e["category"] for trace in found["device_traces"] for e in trace}
    assert categories == {"unknown", "saved", "temp", "param"}
    for trace, segment in zip(found["device_traces"], found["segments"], strict=True):
        assert trace[0]["action"] == "segment_alloc"
        alive: dict[int, int] = {}
        asked: set[int] = set()
        for event in trace[1:]:
            if event["action"] == "alloc":
                assert event["addr"] not in alive
                alive[event["addr"]] = event["size"]
            elif event["action"] == "free_requested":
                asked.add(event["addr"])
            else:
                assert event["action"] == "free_completed" and event["addr"] in asked
                assert alive.pop(event["addr"]) == event["size"]
        active = {b["address"]: b["size"] for b in segment["blocks"] if b["requested_size"]}
        assert alive == active
        assert [e["time_us"] for e in trace] == sorted(e["time_us"] for e in trace)


def test_torchs_own_readers_take_it(run: Run, tmp_path: Path) -> None:
    from torch.cuda import _memory_viz

    found = snapshot(run, tmp_path)
    assert "segments: 4" in _memory_viz.segsum(found)
    assert "TOTAL MEM" in _memory_viz.trace(found)
    assert "snapshot.pickle" in _memory_viz.trace_plot(found)
    folded = _memory_viz.memory(found, format_flamegraph=lambda text: text)
    assert "active_allocated" in folded


def test_frames_are_split_from_the_right(run: Run, tmp_path: Path) -> None:
    (alloc,) = [
        e for e in snapshot(run, tmp_path)["device_traces"][0]
        if e["action"] == "alloc" and e["category"] == "saved"
    ]  # fmt: skip
    assert alloc["frames"][0] == {"filename": "C:/a b.py", "line": 3, "name": "inner;x"}


# Model Explorer


def test_model_explorer_finds_every_node_an_edge_names(run: Run, tmp_path: Path) -> None:
    collection = json.loads(read(run, "model-explorer", tmp_path))
    assert collection["label"] == "run"
    (graph,) = collection["graphs"]
    nodes = {node["id"]: node for node in graph["nodes"]}
    assert graph["id"] == "step 0 M" and len(nodes) == len(graph["nodes"]) == 6
    for node in nodes.values():
        assert all(isinstance(node[key], str) for key in ("id", "label", "namespace"))
        assert all(isinstance(a["value"], str) for a in node["attrs"])
        for edge in node["incomingEdges"]:
            assert edge["sourceNodeId"] in nodes
            assert all(isinstance(value, str) for value in edge.values())
    twice = nodes["1.6"]["incomingEdges"]
    assert {(e["sourceNodeId"], e["sourceNodeOutputId"]) for e in twice} == {
        ("1.5", "0"), ("1.5", "1"),
    }  # fmt: skip
    assert len({e["targetNodeInputId"] for e in twice}) == 2
    assert nodes["0.5"]["namespace"] == "layers/0/up"
    stack = "C:/a b.py:3:inner;x\nmain.py:9:<module>"
    assert {"key": "stack", "value": stack} in nodes["0.5"]["attrs"]
    assert all(a["key"] != "stack" for a in nodes["0.6"]["attrs"])
    assert nodes["0.6"]["namespace"].count("/") == 1  # "a/b.c" is two layers, not three


def test_node_data_lies_over_the_same_graph(run: Run, tmp_path: Path) -> None:
    collection = json.loads(export(run, "model-explorer", tmp_path / "graph").read_bytes())
    overlay = json.loads(read(run, "model-explorer-data", tmp_path))
    (graph,) = collection["graphs"]
    assert list(overlay) == [graph["id"]]
    data = overlay[graph["id"]]
    assert set(data["results"]) <= {node["id"] for node in graph["nodes"]}
    assert data["results"]["0.6"] == {"value": 32}
    assert [g["stop"] for g in data["gradient"]] == [0, 1]


# Graphs


def test_graphml_is_read_back_by_networkx(run: Run, tmp_path: Path) -> None:
    graph = nx.read_graphml(export(run, "graphml", tmp_path / "out"))
    assert graph.is_multigraph() and graph.is_directed()
    assert len(graph) == 6 and graph.number_of_edges() == 6
    assert graph.nodes["0.5"]["saved_bytes"] == 16
    assert "<script>" in graph.nodes["0.6"]["name"]


def test_dot_follows_its_grammar(run: Run, tmp_path: Path) -> None:
    text = read(run, "dot", tmp_path).decode()
    quoted = r'"(?:[^"\\]|\\.)*"'
    attributes = rf"\[\w+=(?:{quoted}|\w+)(?:, \w+=(?:{quoted}|\w+))*\]"
    statement = re.compile(rf"  (?:node|{quoted}(?: -> {quoted})?) {attributes};")
    first, *body, last = text.splitlines()
    assert (first, last) == ("digraph autograd {", "}")
    assert len(body) == 1 + 6 + 6
    assert all(statement.fullmatch(line) for line in body)
    assert "\x00" not in text


# Folded stacks


def test_folded_lines_are_frames_and_a_number(run: Run, tmp_path: Path) -> None:
    lines = read(run, "folded", tmp_path).decode().splitlines()
    assert "main.py:9:<module>;C:/a b.py:3:inner,x;MmBackward0 32" in lines  # 16 in each rank
    assert len(lines) == 2
    for line in lines:
        stack, _, count = line.rpartition(" ")
        assert int(count) > 0 and all(stack.split(";"))


# All of them


@pytest.mark.parametrize("kind", FORMATS)
def test_an_empty_run_exports_to_something_valid(kind: str, tmp_path: Path) -> None:
    RunWriter(tmp_path / "run").close()
    export(Run(tmp_path / "run"), kind)


@pytest.mark.parametrize("kind", FORMATS)
def test_nothing_is_overwritten_without_force(run: Run, kind: str, tmp_path: Path) -> None:
    out = export(run, kind, tmp_path / "out")
    with pytest.raises(ValueError, match=r"which exists, and nothing is overwritten; .*--force"):
        export(run, kind, out)
    assert export(run, kind, out, force=True).read_bytes()


def test_wrong_format_step_and_place_are_named(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="format: got 'svg', but there are only perfetto"):
        export(run, "svg")
    for kind in FORMATS:
        with pytest.raises(ValueError, match="step: got 7, but only these have saves: 0"):
            export(run, kind, tmp_path / "x", step=7)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="cannot be written"):
        export(run, "dot", tmp_path / "file" / "out")


@pytest.mark.parametrize("kind", ["perfetto", "snapshot"])
def test_more_than_a_viewer_takes_asks_for_a_step(
    run: Run, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_EVENTS", 3)
    with pytest.raises(ValueError, match=r"viewers open about 3; choose one step with --step"):
        export(run, kind, tmp_path / "out")
    assert export(run, kind, tmp_path / "out", step=0).exists()


def test_hostile_names_stay_text(run: Run, tmp_path: Path) -> None:
    found = events(run, tmp_path)
    assert any(e["name"] == f"save {HOSTILE}" for e in found)
    assert b"<script" not in export(run, "graphml", tmp_path / "g").read_bytes()
