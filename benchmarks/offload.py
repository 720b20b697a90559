"""What offloaders move and hold: none, torch's save_on_cpu, TRL's, and edkm's, on LLaMA blocks.

    python benchmarks/offload.py [--hidden 1024 2048] [--runs 3] [--data DIR] [--json] [--out FILE]

Every row is one training step (forward and backward) of one model under one offloader, in one
process; times are medians of `--runs` steps that are interleaved between the offloaders. Bytes:
`floor` is the distinct storages that autograd saves, parameters and buffers left out, counted by
plain hooks; `host` is held after forward; `stays` is what of that floor is still on the device
after forward. On a machine without an accelerator the "device" is CPU memory: the bytes are real,
there is no bus, nothing overlaps, and save_on_cpu's copies (which would be none, since the tensors
are on the CPU already) are made as it makes them on a GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import statistics
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaModel
from transformers.utils import logging

from edkm.saved import Ledger, offload
from edkm.saved.replay import KINDS
from profiler.machine import collect_hardware, collect_versions, utc_now

MIB = 1 << 20
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@dataclass
class Case:
    """A model and how to compute its loss."""

    name: str
    dtype: str
    attention: str
    model: nn.Module
    loss: Callable[[], Tensor]


@dataclass
class Row:
    """One offloader on one case; bytes and seconds, None where this machine cannot tell."""

    model: str
    dtype: str
    attention: str
    offloader: str
    saves: int
    floor_bytes: int
    host_bytes: int
    d2h_bytes: int
    h2d_bytes: int
    stays_bytes: int
    device_peak_bytes: int | None
    step_s: float
    overlap: float | None
    grad_equal: bool
    rebuilt: dict[str, dict[str, int]]


class SaveOnCpu(torch.autograd.graph.saved_tensors_hooks):
    """The copies of torch's save_on_cpu(pin_memory=True), counted, on any device."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        super().__init__(self.pack, self.unpack)

    def pack(self, tensor: Tensor) -> tuple[torch.device, Tensor]:
        packed = torch.empty(tensor.size(), dtype=tensor.dtype, pin_memory=tensor.is_cuda)
        packed.copy_(tensor)
        self.ledger.hold(packed.nbytes, peer=False)
        self.ledger.d2h_bytes += packed.nbytes
        weakref.finalize(packed, self.ledger.hold, -packed.nbytes, peer=False).atexit = False
        return tensor.device, packed

    def unpack(self, packed: tuple[torch.device, Tensor]) -> Tensor:
        device, tensor = packed
        self.ledger.h2d_bytes += tensor.nbytes
        return tensor.to(device, non_blocking=True) if device.type != "cpu" else tensor.clone()


def trl_offloader() -> Any:
    """TRL's context, or an error that says why not."""
    from trl.models.activation_offloading import OffloadActivations

    if DEVICE == "cpu":
        raise RuntimeError("TRL's OffloadActivations needs an accelerator")
    context = OffloadActivations()
    context.ledger = None
    return context


OFFLOADERS: dict[str, Callable[[nn.Module], Any]] = {
    "none": lambda model: contextlib.nullcontext(),
    "save_on_cpu": lambda model: SaveOnCpu(),
    "trl": lambda model: trl_offloader(),
    "edkm": lambda model: offload(model, rebuild=("view",)),
    "edkm+rebuild": lambda model: offload(model, rebuild=KINDS),
}


def main() -> None:
    options = parse_options()
    torch.set_num_threads(options.threads)
    logging.disable_progress_bar()
    rows: list[Row] = []
    skipped: dict[str, str] = {}
    for case in cases(options):
        rows += rows_of(case, options.runs, skipped)
        if not options.json:
            print_rows(rows[-len(OFFLOADERS) + len(skipped) :])
    result = {
        "benchmark": "offload",
        "created": utc_now(),
        "versions": collect_versions(),
        "hardware": collect_hardware(),
        "device": DEVICE,
        "threads": options.threads,
        "runs": options.runs,
        "tokens": [options.batch, options.length],
        "skipped": skipped,
        "rows": [asdict(row) for row in rows],
    }
    text = json.dumps(result, indent=1)
    if options.out:
        Path(options.out).write_text(text + "\n")
    if options.json:
        print(text)
    else:
        for name, reason in skipped.items():
            print(f"\nskipped {name}: {reason}")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hidden", type=int, nargs="*", default=[1024, 2048])
    parser.add_argument("--layers", type=int, default=2, help="at hidden 1024")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--length", type=int, default=128, help="tokens of a sequence")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    default = os.environ.get("EDKM_DATA", "../shared/data")
    parser.add_argument("--data", type=Path, default=Path(default), help="has models/stories3M")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", help="write the JSON here too")
    return parser.parse_args()


def cases(options: argparse.Namespace) -> Iterator[Case]:
    """Every model, one at a time: two of them at once may not fit."""
    for hidden in options.hidden:
        for dtype in ("float32", "bfloat16"):
            for attention in ("eager", "sdpa"):
                yield llama(hidden, dtype, attention, options)
                gc.collect()
    folder = options.data / "models" / "stories3M"
    if folder.is_dir():
        for dtype in ("float32", "bfloat16"):
            yield stories(folder, dtype, options)


def llama(hidden: int, dtype: str, attention: str, options: argparse.Namespace) -> Case:
    torch.manual_seed(0)
    layers = max(1, options.layers * 1024 // hidden)
    config = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=hidden * 11 // 4,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        vocab_size=32,
        use_cache=False,
        attn_implementation=attention,
    )
    model = LlamaModel(config).to(DEVICE, getattr(torch, dtype))
    shape = (options.batch, options.length, hidden)
    data = torch.randn(shape, device=DEVICE, dtype=model.dtype)

    def loss() -> Tensor:
        return model(inputs_embeds=data).last_hidden_state.float().square().mean()

    return Case(f"llama-{hidden}x{layers}", dtype, attention, model, loss)


def stories(folder: Path, dtype: str, options: argparse.Namespace) -> Case:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).to(DEVICE)
    model.train()
    shape = (options.batch, options.length)
    tokens = torch.randint(0, model.config.vocab_size, shape, device=DEVICE)

    def loss() -> Tensor:
        found: Tensor = model(input_ids=tokens, labels=tokens, use_cache=False).loss
        return found

    return Case("stories3M", dtype, str(model.config._attn_implementation), model, loss)


def rows_of(case: Case, runs: int, skipped: dict[str, str]) -> list[Row]:
    reference = step(case, contextlib.nullcontext()).gradients
    saves, floor, _ = saved_storages(case, contextlib.nullcontext())
    contexts: dict[str, Any] = {}
    for name, make in OFFLOADERS.items():
        try:
            contexts[name] = make(case.model)
        except (ImportError, AttributeError, RuntimeError) as error:
            contexts.pop(name, None)
            skipped[name] = f"{type(error).__name__}: {error}"
    steps: dict[str, list[Step]] = {name: [] for name in contexts}
    for _ in range(runs):
        for name in contexts:
            fresh = OFFLOADERS[name](case.model)
            steps[name].append(step(case, fresh))
    rows = []
    for name, done in steps.items():
        stays = saved_storages(case, OFFLOADERS[name](case.model))[2]
        last = done[-1]
        rows.append(
            Row(
                case.name,
                case.dtype,
                case.attention,
                name,
                saves,
                floor,
                last.host_bytes,
                last.d2h_bytes,
                last.h2d_bytes,
                stays,
                last.device_peak,
                statistics.median(s.seconds for s in done),
                None,
                all(torch.equal(a, b) for a, b in zip(last.gradients, reference, strict=True)),
                last.rebuilt,
            )
        )
    return rows


@dataclass
class Step:
    seconds: float
    host_bytes: int
    d2h_bytes: int
    h2d_bytes: int
    device_peak: int | None
    gradients: list[Tensor]
    rebuilt: dict[str, dict[str, int]]


def step(case: Case, context: Any) -> Step:
    """One forward and backward under `context`."""
    case.model.zero_grad()
    gc.collect()
    if DEVICE == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    with context:
        loss = case.loss()
    ledger = getattr(context, "ledger", None) or Ledger()
    held = ledger.host_bytes
    loss.backward()
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    return Step(
        seconds,
        held,
        ledger.d2h_bytes,
        ledger.h2d_bytes,
        torch.cuda.max_memory_allocated() if DEVICE == "cuda" else None,
        [p.grad.clone() for p in case.model.parameters() if p.grad is not None],
        {kind: asdict(told) for kind, told in ledger.rebuilt.items()},
    )


def saved_storages(case: Case, context: Any) -> tuple[int, int, int]:
    """Saves, bytes of their distinct storages, and bytes of those alive after forward."""
    tensors = (*case.model.parameters(), *case.model.buffers())
    resident = weakref.WeakSet(t.untyped_storage() for t in tensors)
    seen: dict[int, tuple[weakref.ref[Any], int]] = {}
    saves = 0

    def note(tensor: Tensor) -> None:
        nonlocal saves
        saves += 1
        storage = tensor.untyped_storage()
        if storage not in resident:
            known = any(ref() is storage for ref, _ in seen.values())
            if not known:
                seen[len(seen)] = (weakref.ref(storage), storage.nbytes())

    with watched(context, note):
        loss = case.loss()
    alive = sum(count for ref, count in seen.values() if ref() is not None)
    del loss
    return saves, sum(count for _, count in seen.values()), alive


@contextlib.contextmanager
def watched(context: Any, note: Callable[[Tensor], None]) -> Iterator[None]:
    """Enter `context`, with every tensor that it packs noted first."""
    if isinstance(context, contextlib.nullcontext):
        context = torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t)
    attribute = "pack_hook" if hasattr(context, "pack_hook") else "pack"
    pack = getattr(context, attribute)

    def noting(tensor: Tensor) -> Any:
        note(tensor)
        return pack(tensor)

    setattr(context, attribute, noting)
    with context:
        yield


def print_rows(rows: list[Row]) -> None:
    print(flush=True)
    print(f"{rows[0].model} {rows[0].dtype} {rows[0].attention}: {rows[0].saves} saves, ", end="")
    print(f"floor {rows[0].floor_bytes / MIB:.1f} MiB")
    print(f"{'':14}{'host':>9}{'d2h':>9}{'h2d':>9}{'stays':>9}{'of floor':>10}{'step s':>9}  equal")
    for row in rows:
        print(
            f"{row.offloader:14}{row.host_bytes / MIB:9.1f}{row.d2h_bytes / MIB:9.1f}"
            f"{row.h2d_bytes / MIB:9.1f}{row.stays_bytes / MIB:9.1f}"
            f"{row.host_bytes / row.floor_bytes:10.3f}{row.step_s:9.3f}  {row.grad_equal}"
        )


if __name__ == "__main__":
    main()
