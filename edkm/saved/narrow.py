"""The wide twin of a narrow tensor holds no more than the narrow one: copy it in that type.

Contract: `narrowed` answers only where the autograd graph says that every element was converted
up from a narrower floating type and nothing was written since. On a CPU it is checked as well, bit
by bit; on CUDA a check would make the host wait for the device, and the graph's word is taken.
Boundary: makes the narrow tensor on the device; keeps nothing.
"""

from __future__ import annotations

from torch import Tensor

from edkm.saved.layout import Layout, same_bits
from edkm.saved.replay import Step, input_of, step_of


def narrowed(tensor: Tensor, layout: Layout, hops: int) -> tuple[Tensor, Step] | None:
    """The tensor in the type it came from, and the step back; None where there is none."""
    if tensor._version != 0 or not layout.is_dense or layout.conj or layout.neg:
        return None
    node, found = tensor.grad_fn, None
    for _ in range(hops):
        found = step_of(node) if node is not None else None
        if found is None or not found.view:
            break
        assert node is not None
        node = node.next_functions[0][0]
    if node is None or found is None or found.name != "upcast":
        return None
    source = input_of(node)
    assert source is not None
    plain = tensor.detach()
    narrow = plain.to(source.dtype)
    if tensor.device.type == "cpu" and not same_bits(narrow.to(plain.dtype), plain):
        return None  # a NaN whose payload is lost, or a write through `.data`
    wide = layout.dtype
    return narrow, Step("upcast", lambda t: t.to(wide), view=False)
