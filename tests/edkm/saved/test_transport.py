"""Side streams: in whatever order they run, what arrives is what was sent."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from edkm.saved.transport import Downloaded, StreamTransport
from tests.edkm.saved.streams import Stream, on_device, simulate

pytestmark = pytest.mark.skipif(
    torch.backends.cuda.is_built(), reason="the miniature needs a torch without CUDA"
)
COUNT = 8


def pattern(number: int) -> Tensor:
    return torch.full((COUNT,), number + 1, dtype=torch.uint8)


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("other_stream", [False, True])
def test_no_order_of_the_streams_spoils_a_byte(
    ahead: bool, other_stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Down while the source is dropped, up again, used by one stream or by two."""
    for seed in range(40):
        machine = simulate(monkeypatch, seed)
        transport = StreamTransport(prefetch=2, pinned_cap=None)
        sent: list[Downloaded] = []
        for number in range(4):
            source = on_device(COUNT)
            source.copy_(pattern(number))  # queued, as a kernel is
            sent.append(transport.download(source))
            del source  # autograd keeps a handle in its place
            machine.advance(machine.random.randrange(6))
        results = [torch.zeros(COUNT, dtype=torch.uint8) for _ in sent]
        for number in reversed(range(4)):
            target = on_device(COUNT)
            if ahead:
                event = transport.start_upload(sent[number], target)
                machine.advance(machine.random.randrange(6))
                if other_stream:
                    machine.current = Stream()
                transport.use(target, event)
            else:
                transport.upload(sent[number], target)
                made = transport.mark(target)
                if other_stream:
                    machine.current = Stream()
                    transport.use(target, made)
            results[number].copy_(target)  # queued: a kernel reads it
            del target
            machine.advance(machine.random.randrange(6))
        machine.finish()
        for number, result in enumerate(results):
            assert torch.equal(result, pattern(number)), (seed, number)


def test_the_host_waits_before_it_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(20):
        simulate(monkeypatch, seed)
        source = on_device(COUNT)
        source.copy_(pattern(seed))
        sent = StreamTransport(prefetch=0, pinned_cap=None).download(source)
        assert torch.equal(sent.wait(), pattern(seed))


def test_an_upload_given_up_spoils_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fetched ahead and never used: its memory is given out while the copy is still queued."""
    for seed in range(30):
        machine = simulate(monkeypatch, seed)
        transport = StreamTransport(prefetch=2, pinned_cap=None)
        source = on_device(COUNT)
        source.copy_(pattern(1))
        sent = transport.download(source)
        target = on_device(COUNT)
        memory = target.as_subclass(Tensor)
        transport.start_upload(sent, target)
        del target
        machine.finish()
        assert torch.equal(memory, torch.full((COUNT,), 255, dtype=torch.uint8))


def test_the_cap_counts_pinned_blocks_as_they_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = simulate(monkeypatch, 0)
    asked: list[bool] = []
    plain = torch.empty

    def empty(*shape: object, pin_memory: bool = False, **settings: object) -> Tensor:
        asked.append(pin_memory)
        return plain(*shape, **settings)  # type: ignore[call-overload,no-any-return]

    monkeypatch.setattr(torch, "empty", empty)
    transport = StreamTransport(prefetch=0, pinned_cap=1024)
    first, second = (transport.download(on_device(300)) for _ in range(2))  # 512 bytes each
    transport.download(on_device(1))
    assert asked == [True, True, False]
    machine.finish()  # a queued copy keeps what it reads
    del first
    third = transport.download(on_device(512))
    assert asked[3:] == [True] and second is not third
