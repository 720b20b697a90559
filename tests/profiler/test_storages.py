"""Storages: identity by life, not by address; categories; totals that fall when memory dies."""

from __future__ import annotations

import gc

import torch
from torch import nn

from profiler import events
from profiler.storages import StorageTable, is_parameter


def _table() -> tuple[StorageTable, list[events.Storage]]:
    written: list[events.Storage] = []
    return StorageTable(written.append), written


def test_views_share_a_storage_and_copies_do_not() -> None:
    table, _ = _table()
    x = torch.ones(4, 4)
    assert table.see(x).row.storage_id == table.see(x.t()[1:]).row.storage_id
    assert table.see(x.clone()).row.storage_id != table.see(x).row.storage_id


def test_a_reused_address_is_a_new_storage() -> None:
    table, _ = _table()
    ids, addresses = set(), set()
    for _ in range(50):
        x = torch.empty(1 << 16)
        ids.add(table.see(x).row.storage_id)
        addresses.add(x.data_ptr())
        del x
    assert len(addresses) < 50, "the allocator never reused an address: the test shows nothing"
    assert len(ids) == 50


def test_totals_follow_births_keepers_and_deaths() -> None:
    table, written = _table()
    x = torch.ones(256)
    live = table.see(x)
    assert (table.bytes_of("saved"), table.bytes_of("temp")) == (0, 1024)
    table.keep(live, +1)
    table.keep(live, +1)
    assert (table.bytes_of("saved"), table.bytes_of("temp")) == (1024, 0)
    table.keep(live, -1)
    table.keep(live, -1, "MmBackward0")
    assert table.bytes_of("saved") == 0
    del x
    gc.collect()
    assert table.total_bytes == 0
    assert written[-1].died_ns is not None and written[-1].last_keeper == "MmBackward0"


def test_parameters_gradients_and_optimizer_state_have_their_own_category() -> None:
    table, _ = _table()
    weight = nn.Parameter(torch.ones(256))
    assert is_parameter(weight.view(16, 16).t()) and not is_parameter(torch.ones(1))
    assert table.see(weight.view(16, 16)).row.category == "param"
    grad = torch.ones(256)
    table.see_resident(grad, "grad", module="m")
    assert table.bytes_of("grad") == 1024
    table.see_resident(grad, "optimizer")
    assert (table.bytes_of("grad"), table.bytes_of("optimizer")) == (0, 1024)
