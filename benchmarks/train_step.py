"""A clustered fine-tuning step against a plain one: CPU time and peak memory.

A LLaMA of random weights is tuned for a few steps as `python -m edkm.train` tunes it (AdamW, one
k-means update a step, embeddings at 8 bits straight-through), plain and clustered in turn, each in
a process of its own so that peak memory is its own. CPU time, not wall time: it bears a busy
machine. The first step, which fits the codebooks, is left out of the times and in the peaks.

Three peaks, since a process also holds code: of what torch allocated (weights, optimizer state and
a step's tensors, from its profiler); of the resident set above what it was after a small model of
the same kind took a step, so that libraries and compiled loops are loaded; of the whole process.

    python benchmarks/train_step.py [--hidden 1024] [--layers 4] [--rounds 3] [--json] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import edkm
from profiler.machine import collect_hardware, collect_versions, utc_now

KINDS = ("plain", "clustered", "weighed", "scaled")
PEAKS = ("allocated_bytes", "training_bytes", "peak_bytes")
_SMALL = 128  # hidden size of the model that loads the code


def main() -> None:
    options = parse_options()
    if options.kind:
        print(json.dumps(measure(options)))
        return
    found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in options.kinds}
    for _ in range(options.rounds):
        for kind in options.kinds:
            found[kind].append(in_a_process(kind))
    step = {kind: [s for run in found[kind] for s in run["step_cpu_s"]] for kind in found}
    peaks = {p: {kind: [run[p] for run in found[kind]] for kind in found} for p in PEAKS}
    hidden = ("json", "out", "kind")
    result = {
        "benchmark": "train_step",
        "created": utc_now(),
        "versions": collect_versions(),
        "hardware": collect_hardware(),
        "arguments": {k: v for k, v in vars(options).items() if k not in hidden},
        "parameters": found["plain"][0]["parameters"],
        "step_cpu_s": step,
        **peaks,
        "code_bytes": {kind: [run["code_bytes"] for run in found[kind]] for kind in found},
        "time_ratio": over_plain(step),
        **{p.replace("bytes", "ratio"): over_plain(peaks[p]) for p in PEAKS},
    }
    text = json.dumps(result, indent=1)
    if options.out:
        Path(options.out).write_text(text + "\n", encoding="utf-8")
    if options.json:
        print(text)
        return
    print("kind        CPU s a step   MiB allocated   training   process   (over plain)")
    for kind in found:
        row = [statistics.median(peaks[p][kind]) / 2**20 for p in PEAKS]
        ratios = [result["time_ratio"], *(result[p.replace("bytes", "ratio")] for p in PEAKS)]
        over = "  ".join(f"{ratio.get(kind, 1.0):.3f}" for ratio in ratios)
        sizes = "".join(f"{size:>12,.0f}" for size in row)
        print(f"{kind:10} {statistics.median(step[kind]):10.3f}  {sizes}   {over}")


def over_plain(values: dict[str, list[Any]]) -> dict[str, float]:
    """Median of each kind over that of plain."""
    plain = statistics.median(values["plain"])
    return {kind: statistics.median(v) / plain for kind, v in values.items() if kind != "plain"}


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--bits", type=int, default=3)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--batch", type=int, default=8, help="sequences")
    parser.add_argument("--tokens", type=int, default=256, help="of a sequence")
    parser.add_argument("--steps", type=int, default=2, help="timed steps a process")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each kind")
    parser.add_argument(
        "--kinds", nargs="+", choices=KINDS, default=KINDS[:2],
        help="weighed: k-means by the importance of inputs; scaled: a scale for each row",
    )  # fmt: skip
    parser.add_argument("--kind", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", help="also write JSON here")
    options = parser.parse_args()
    if "plain" not in options.kinds:
        parser.error("--kinds must name plain, which the others are compared with")
    return options


def in_a_process(kind: str) -> dict[str, Any]:
    command = [sys.executable, __file__, *sys.argv[1:], "--kind", kind]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(options: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    small, _ = stepper(options, _SMALL, 1)
    small(0)  # libraries and compiled loops are loaded once a process, whatever its model
    del small
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    code = resident("VmRSS")
    step, model = stepper(options, options.hidden, options.layers)
    times = []
    for index in range(options.steps + 1):
        begun = time.process_time()
        step(index)
        times.append(time.process_time() - begun)
    peak = resident("VmHWM")
    weights = sum(p.nbytes for p in model.parameters())
    held = 3 * weights  # and AdamW's two moments in their dtype; gradients are a step's
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "step_cpu_s": times[1:],
        "allocated_bytes": held + allocated(lambda: step(options.steps)),
        "training_bytes": peak - code,
        "peak_bytes": peak,
        "code_bytes": code,
    }


def stepper(
    options: argparse.Namespace, hidden: int, layers: int
) -> tuple[Callable[[int], None], torch.nn.Module]:
    """(one training step, the model): 8-bit tied embedding, ``options.bits`` for the rest."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=4096,
        hidden_size=hidden,
        intermediate_size=hidden * 11 // 4,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 128,
        tie_word_embeddings=True,
    )
    network: Any = LlamaForCausalLM(config)  # type: ignore[no-untyped-call]
    model = network.to(getattr(torch, options.dtype)).train()
    plan = None
    if options.kind != "plain":
        importance, scaled = options.kind == "weighed", options.kind == "scaled"
        made = edkm.cluster(model, options.bits, importance=importance, row_scale=scaled)
        plan = edkm.schedule(made, options.steps + 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    ids = torch.randint(0, 4096, (options.batch, options.tokens))

    def step(index: int) -> None:
        if plan is not None:
            plan.step(index)
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step, model


def allocated(work: Callable[[], None]) -> int:
    """Most bytes that torch held at once during ``work`` above those held before it."""
    with torch.profiler.profile(profile_memory=True) as found:
        work()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        found.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    moves = [(e["ts"], e["args"]["Bytes"]) for e in events if e["name"] == "[memory]"]
    now = most = 0
    for _, size in sorted(moves, key=lambda move: move[0]):
        now += size
        most = max(most, now)
    return most


def resident(field: str) -> int:
    """Bytes of this process's resident set, or of its peak. Linux only."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


if __name__ == "__main__":
    main()
