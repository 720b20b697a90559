"""The record types are the columns on disk: names, units, keys and types hold to one rule."""

import dataclasses

import pyarrow as pa
import pytest

from profiler.events import RECORDS
from profiler.schema import arrow_schema, columns, record_type


@pytest.mark.parametrize("record", RECORDS, ids=lambda r: r.table)
def test_every_table_has_a_rank_and_its_key(record: type) -> None:
    names = {f.name for f in dataclasses.fields(record)}
    assert "rank" in names
    assert record.key is None or record.key in names
    assert not hasattr(record, "__dict__") or "__slots__" in vars(record)


@pytest.mark.parametrize("record", RECORDS, ids=lambda r: r.table)
def test_schema_follows_from_the_annotations(record: type) -> None:
    schema = arrow_schema(record.table)
    assert schema.names == [f.name for f in dataclasses.fields(record)]
    for column in columns(record.table):
        if column.name.endswith(("_ns", "bytes", "_id", "seq")):
            assert column.type == pa.int64(), column
        if not column.nullable:
            assert column.default is not None, column


def test_some_types_by_hand() -> None:
    schema = arrow_schema("saves")
    assert schema.field("shape").type == pa.list_(pa.int64())
    assert schema.field("op").type == pa.string()
    assert schema.field("is_param").type == pa.bool_()
    assert schema.field("unpack_ns").nullable
    assert not schema.field("save_id").nullable
    assert arrow_schema("stacks").field("frames").type == pa.list_(pa.string())


def test_unknown_table_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"table: got 'save', but .* saves, storages, transfers"):
        record_type("save")
