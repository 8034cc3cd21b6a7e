"""Headers are written padded and in bounds that hold for any size; broken ones are tested in test_sources."""

import pytest

from vortex_engine.c3.safetensors_header import (
    ELEMENT_BITS,
    HeaderError,
    TensorSpan,
    format_header,
    parse_header,
    reserve_bytes,
)


def spans():
    return [TensorSpan("wörter.c3", "U8", (4096,), 0, 4096), TensorSpan('quo"te', "BF16", (3, 5), 4096, 4126)]


def test_what_is_written_is_read():
    raw = format_header(spans())
    assert len(raw) % 4096 == 0
    assert int.from_bytes(raw[:8], "little") == len(raw) - 8
    header = parse_header(raw[8:], 4126)
    assert list(header.tensors.values()) == spans()
    assert header.data_offset == len(raw)


def test_reserved_room_fits_every_size():
    names = [(f"model.layers.{i}.weight", 2) for i in range(200)]
    room = reserve_bytes(names)
    end = 10**15
    wide = [TensorSpan(name, "F8_E5M2FNUZ", (end, end), end, end) for name, _ in names]
    assert len(format_header(wide, room)) == room
    assert len(format_header([TensorSpan(name, "U8", (1, 1), 0, 1) for name, _ in names], room)) == room


def test_elements_of_less_than_a_byte():
    assert ELEMENT_BITS["F4"] == 4
    parse_header(b'{"a":{"dtype":"F4","shape":[2,2],"data_offsets":[0,2]}}', 2)
    with pytest.raises(HeaderError, match=r"needs 1\.5 bytes"):
        parse_header(b'{"a":{"dtype":"F4","shape":[3],"data_offsets":[0,2]}}', 2)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (b'{"__metadata__":{"format":1}}', "map of strings"),
        (b'{"__metadata__":[]}', "map of strings"),
        (b'{"a":{"dtype":"U8","shape":[true],"data_offsets":[0,1]}}', "list of counts"),
        (b'{"a":{"dtype":"U8","shape":[1.0],"data_offsets":[0,1]}}', "list of counts"),
        (b'{"a":{"dtype":"U8","shape":1,"data_offsets":[0,1]}}', "list of counts"),
        (b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[1,0]}}', "not a range"),
        (b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1,2]}}', "not a range"),
        (b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}', "hole"),
        (b'{"a":{"dtype":["U8"],"shape":[1],"data_offsets":[0,1]}}', "unknown dtype"),
        (b'{"\\ud800":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', "Unicode"),
        (b'{"a":7}', "exactly dtype"),
        (b"{}", "account for 0"),
    ],
)
def test_broken_rules_are_named(text, rule):
    with pytest.raises(HeaderError, match=rule):
        parse_header(text, 1)
