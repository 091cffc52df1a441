"""The stream reader against byte tables made by hand, and against damage."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from dmmn_qp.qupath.java_stream import (
    MAX_DEPTH,
    BlockData,
    JavaArray,
    JavaClass,
    JavaEnum,
    JavaObject,
    JavaStreamError,
    read_stream,
)

MAGIC = b"\xac\xed\x00\x05"
UID = bytes(8)
END, NULL, RESET = b"\x78", b"\x70", b"\x79"


def utf(text: str) -> bytes:
    return struct.pack(">H", len(text)) + text.encode()


def described(name: str, flags: int = 2, fields: bytes = b"\x00\x00", parent: bytes = NULL) -> bytes:
    return b"\x72" + utf(name) + UID + bytes([flags]) + fields + END + parent


def reference(handle: int) -> bytes:
    return b"\x71" + struct.pack(">I", 0x7E0000 + handle)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", []),
        (NULL, [None]),
        (b"\x74" + utf("abc"), ["abc"]),
        (b"\x74\x00\x02\xc0\x80", ["\0"]),  # NUL takes two bytes
        (b"\x74\x00\x06\xed\xa0\xbd\xed\xb8\x80", ["\U0001f600"]),  # a pair of surrogates
        (b"\x74\x00\x03\xed\xa0\xbd", ["\ufffd"]),  # half a pair
        (b"\x7c" + struct.pack(">q", 3) + b"abc", ["abc"]),  # a long string
        (b"\x74" + utf("a") + b"\x74" + utf("b") + reference(0) + reference(1), ["a", "b", "a", "b"]),
        (b"\x74" + utf("a") + RESET + b"\x74" + utf("b") + reference(0), ["a", "b", "b"]),
    ],
)
def test_texts_and_references(data: bytes, expected: list[object]) -> None:
    assert read_stream(MAGIC + data) == expected


def test_block_data() -> None:
    short, long = read_stream(MAGIC + b"\x77\x02ab" + b"\x7a\x00\x00\x00\x03cde")
    assert isinstance(short, BlockData)
    assert isinstance(long, BlockData)
    assert (short.data, long.data) == (b"ab", b"cde")


def test_fields_of_all_primitive_types() -> None:
    fields = b"\x00\x08" + b"".join(
        code + utf(code.decode()) for code in (b"B", b"C", b"D", b"F", b"I", b"J", b"S", b"Z")
    )
    values = struct.pack(">bHdfiqh?", -1, 65, 0.5, 0.25, -2, 1 << 40, -3, True)
    (item,) = read_stream(MAGIC + b"\x73" + described("p.A", fields=fields) + values)
    assert isinstance(item, JavaObject)
    assert item.fields == {"B": -1, "C": 65, "D": 0.5, "F": 0.25, "I": -2, "J": 1 << 40, "S": -3, "Z": True}


def test_derived_class_reads_its_parent_first_and_hides_its_fields() -> None:
    field = b"\x00\x01I" + utf("n")
    data = b"\x73" + described("p.B", fields=field, parent=described("p.A", fields=field)) + struct.pack(">ii", 1, 2)
    (item,) = read_stream(MAGIC + data)
    assert isinstance(item, JavaObject)
    assert [part.name for part in item.java_class.chain] == ["p.A", "p.B"]
    assert item.fields == {"n": 2}


def test_object_that_refers_to_itself() -> None:
    fields = b"\x00\x01L" + utf("me") + b"\x74" + utf("Lp.A;")
    (item,) = read_stream(MAGIC + b"\x73" + described("p.A", fields=fields) + reference(2))
    assert isinstance(item, JavaObject)
    assert item.fields["me"] is item


def test_externalizable_runs_to_its_end_mark() -> None:
    (item, after) = read_stream(MAGIC + b"\x73" + described("p.A", flags=0x0C) + b"\x77\x01x" + NULL + END + NULL)
    assert isinstance(item, JavaObject)
    assert isinstance(item.items[0], BlockData)
    assert item.items[1:] == [None]
    assert after is None


def test_own_method_follows_the_fields_of_its_class() -> None:
    fields = b"\x00\x01I" + utf("size")
    (item,) = read_stream(
        MAGIC + b"\x73" + described("p.A", 3, fields) + b"\x00\x00\x00\x07" + b"\x74" + utf("x") + END
    )
    assert isinstance(item, JavaObject)
    assert (item.fields, item.items) == ({"size": 7}, ["x"])


def test_arrays() -> None:
    numbers, texts, empty = read_stream(
        MAGIC
        + (b"\x75" + described("[F") + struct.pack(">iff", 2, 0.5, 1.5))
        + (b"\x75" + described("[Ljava.lang.String;") + struct.pack(">i", 2) + b"\x74" + utf("a") + NULL)
        + (b"\x75" + described("[Z") + struct.pack(">i", 0))
    )
    assert isinstance(numbers, JavaArray)
    assert isinstance(texts, JavaArray)
    assert isinstance(empty, JavaArray)
    np.testing.assert_array_equal(numbers.values, [0.5, 1.5])
    assert texts.values == ["a", None]
    assert len(empty.values) == 0


def test_enum_class_and_proxy() -> None:
    enum, java_class, proxy = read_stream(
        MAGIC
        + (b"\x7e" + described("p.E", 0x12, parent=described("java.lang.Enum", 0x12)) + b"\x74" + utf("RED"))
        + (b"\x76" + described("p.C"))
        + (b"\x73\x7d" + struct.pack(">i", 1) + utf("p.I") + END + NULL)
    )
    assert isinstance(enum, JavaEnum)
    assert (enum.class_name, enum.constant) == ("p.E", "RED")
    assert isinstance(java_class, JavaClass)
    assert java_class.name == "p.C"
    assert isinstance(proxy, JavaObject)
    assert proxy.class_name == "proxy of p.I"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x74\x00\x05ab", "text longer than"),
        (b"\x74\x00\x01\xff", "modified UTF-8"),
        (b"\x7c" + struct.pack(">q", 1 << 60), "announced"),
        (b"\x7c" + struct.pack(">q", -1), "announced"),
        (b"\x7a\xff\xff\xff\xff", "announced"),
        (b"\x77\x05ab", "announced"),
        (reference(0), "back reference"),
        (b"\x71\x00\x00\x00\x00", "back reference"),
        (b"\x74" + utf("a") + b"\x73" + reference(0), "where a class belongs"),
        (b"\x73" + NULL, "without a class"),
        (b"\x73" + described("p.A", flags=0x04), "protocol version 1"),
        (b"\x73" + described("p.A", fields=b"\x00\x01Q" + utf("q")), "field type"),
        (b"\x73" + described("p.A", fields=b"\x00\x01L" + utf("q") + NULL), "where a text belongs"),
        (
            b"\x73" + described("p.A", fields=b"\x00\x01[" + utf("q") + b"\x74" + utf("[I")) + b"\x77\x00",
            "block of data",
        ),
        (b"\x73" + described("p.A", parent=reference(0)), "descends from itself"),
        (b"\x75" + described("p.A") + struct.pack(">i", 0), "class of arrays"),
        (b"\x75" + described("[D") + struct.pack(">i", 0x7FFFFFFF), "announced"),
        (b"\x75" + described("[D") + struct.pack(">i", -1), "announced"),
        (b"\x75" + described("[Lp.A;") + struct.pack(">i", 0x7FFFFFFF), "announced"),
        (b"\x73\x7d" + struct.pack(">i", 0x7FFFFFFF), "announced"),
        (b"\x7b" + NULL, "its exception"),
        (b"\x6f", "unexpected code"),
        (b"\x74", "ends inside"),
    ],
)
def test_malformed(data: bytes, message: str) -> None:
    with pytest.raises(JavaStreamError, match=message):
        read_stream(MAGIC + data)


@pytest.mark.parametrize("data", [b"", MAGIC[:3], b"PK\x03\x04", b"{}"])
def test_no_stream_at_all(data: bytes) -> None:
    with pytest.raises(JavaStreamError, match="AC ED 00 05"):
        read_stream(data)


def test_nesting_is_bounded() -> None:
    nested = b"\x73" + described("p.A", flags=0x0C)
    again = b"\x73" + reference(0)
    deep = MAGIC + nested + again * (MAX_DEPTH - 1)
    assert len(read_stream(deep + END * MAX_DEPTH)) == 1
    with pytest.raises(JavaStreamError, match="nested deeper"):
        read_stream(deep + again * 5000)
    with pytest.raises(JavaStreamError, match="nested deeper"):
        read_stream(MAGIC + b"\x76" + b"".join(b"\x72" + utf("p.A") + UID + b"\x02\x00\x00" + END for _ in range(5000)))


def test_chain_of_classes_is_bounded() -> None:
    """Each class has the one before as its parent, without any nesting in the stream."""
    classes = b"\x76" + described("p.A")
    for number in range(MAX_DEPTH + 10):
        # Each described class takes a handle, and so does the class object around it.
        classes += b"\x76" + described("p.A", parent=reference(2 * number))
    with pytest.raises(JavaStreamError, match="too many"):
        read_stream(MAGIC + classes)
