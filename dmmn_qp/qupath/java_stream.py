"""Reads streams of the public Java Object Serialization Stream Protocol (version 5), knowing no classes.

Nothing is instantiated or executed: a stream becomes plain values. Input is taken to be hostile, so nesting
is bounded, no allocation exceeds what the bytes at hand can fill, and malformed input raises
:class:`JavaStreamError` only.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from itertools import groupby
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

MAX_DEPTH: Final = 200
"""Objects may nest this deep: far beyond any drawn hierarchy, well inside Python's own recursion limit."""

_MAGIC: Final = b"\xac\xed\x00\x05"
_FIRST_HANDLE: Final = 0x7E0000

_NULL, _REFERENCE, _CLASS_DESC, _OBJECT, _STRING, _ARRAY, _CLASS, _BLOCK = range(0x70, 0x78)
_END_BLOCK, _RESET, _BLOCK_LONG, _EXCEPTION, _LONG_STRING, _PROXY_CLASS_DESC, _ENUM = range(0x78, 0x7F)

_HAS_WRITE_METHOD: Final = 0x01
_SERIALIZABLE: Final = 0x02
_EXTERNALIZABLE: Final = 0x04
_HAS_BLOCK_DATA: Final = 0x08

_PRIMITIVES: Final = {"B": "b", "C": "H", "D": "d", "F": "f", "I": "i", "J": "q", "S": "h", "Z": "?"}
_DTYPES: Final = {
    code: np.dtype(name)
    for code, name in {
        "B": "i1", "C": ">u2", "D": ">f8", "F": ">f4", "I": ">i4", "J": ">i8", "S": ">i2", "Z": "u1",
    }.items()
}  # fmt: skip
_U16: Final = struct.Struct(">H")
_I32: Final = struct.Struct(">i")
_I64: Final = struct.Struct(">q")


class JavaStreamError(ValueError):
    """The bytes are not a whole, well-formed Java serialization stream."""


@dataclass(slots=True, eq=False)
class JavaClass:
    """A class as the stream describes it.

    Attributes:
        name: Full Java name, such as ``java.util.ArrayList``; ``[F`` is an array of float.
        flags: The protocol's SC_* bits.
        fields: Name and type code of each field of this class alone; ``L`` and ``[`` are objects.
        parent: The described superclass.
        chain: Its described superclasses, the most general first, and itself; empty while it is being read.
        layout: Its fields as they are read: a run of primitives at a time, or one object (without a form).
    """

    name: str
    flags: int = 0
    fields: list[tuple[str, str]] = field(default_factory=list)
    parent: JavaClass | None = None
    chain: tuple[JavaClass, ...] = ()
    layout: list[tuple[tuple[str, ...], struct.Struct | None]] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class JavaObject:
    """An object.

    Attributes:
        java_class: Its most derived class.
        fields: Values of the fields by name; a derived class's field hides its parent's of the same name.
        items: What its classes wrote by their own methods, in order.
    """

    java_class: JavaClass
    fields: dict[str, JavaValue] = field(default_factory=dict)
    items: list[JavaValue] = field(default_factory=list)

    @property
    def class_name(self) -> str:
        """Full Java name of the most derived class."""
        return self.java_class.name


@dataclass(slots=True, eq=False)
class JavaEnum:
    """A constant of an enumeration."""

    class_name: str
    constant: str


@dataclass(slots=True, eq=False)
class JavaArray:
    """An array: of primitives a read-only numpy array (big-endian, backed by the input), else a list."""

    class_name: str
    values: npt.NDArray[np.generic] | list[JavaValue]


@dataclass(slots=True, eq=False)
class BlockData:
    """Bytes that a class wrote itself; several primitives may share one block."""

    data: bytes


JavaValue: TypeAlias = bool | int | float | str | JavaObject | JavaEnum | JavaArray | JavaClass | BlockData | None


def read_stream(data: bytes) -> list[JavaValue]:
    """Reads a whole stream.

    Args:
        data: All bytes, from the magic number to the end.

    Returns:
        The top-level items in order. A value that the stream refers back to is the same Python object each
        time.

    Raises:
        JavaStreamError: The bytes end early, or break the protocol, or nest deeper than ``MAX_DEPTH``.
    """
    if data[: len(_MAGIC)] != _MAGIC:
        raise JavaStreamError("no Java serialization stream (it does not start with AC ED 00 05)")
    reader = _Reader(data)
    try:
        return reader.read_all()
    except RecursionError:
        raise JavaStreamError("objects nested too deep for this program's own depth") from None
    except (struct.error, IndexError):
        raise JavaStreamError(f"the stream of {len(data)} bytes ends inside an object") from None


class _Reader:
    """One pass over the bytes; ``position`` is the next byte, ``handles`` what back references number."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = len(_MAGIC)
        self.handles: list[JavaValue] = []
        self.remember = self.handles.append

    def read_all(self) -> list[JavaValue]:
        items: list[JavaValue] = []
        while self.position < len(self.data):
            if self.data[self.position] == _RESET:
                self.position += 1
                self.handles.clear()
            else:
                items.append(self.content(0))
        return items

    def fail(self, what: str) -> JavaStreamError:
        return JavaStreamError(f"{what} at byte {self.position}")

    def take(self, length: int) -> bytes:
        start = self.position
        if length < 0 or start + length > len(self.data):
            raise self.fail(f"{length} bytes announced, {len(self.data) - start} there")
        self.position = start + length
        return self.data[start : self.position]

    def number(self, form: struct.Struct) -> int:
        value: int = form.unpack_from(self.data, self.position)[0]
        self.position += form.size
        return value

    def utf(self) -> str:
        start = self.position + _U16.size
        end = start + _U16.unpack_from(self.data, self.position)[0]
        if end > len(self.data):
            raise self.fail("a text longer than what is there")
        self.position = end
        return self.decode(self.data[start:end])

    def decode(self, raw: bytes) -> str:
        """Decodes Java's modified UTF-8: NUL as two bytes, and supplementary characters as surrogate pairs."""
        if raw.isascii():
            return raw.decode("ascii")
        try:
            text = raw.replace(b"\xc0\x80", b"\0").decode("utf-8", "surrogatepass")
            return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        except UnicodeDecodeError:
            raise self.fail("a text that is not modified UTF-8") from None

    def content(self, depth: int) -> JavaValue:
        """Reads one object or block of data."""
        if depth > MAX_DEPTH:
            raise self.fail(f"objects nested deeper than {MAX_DEPTH}")
        code = self.data[self.position]
        self.position += 1
        if code == _OBJECT:
            return self.new_object(depth)
        if code == _REFERENCE:
            return self.reference()
        if code == _NULL:
            return None
        if code == _BLOCK:
            length = self.data[self.position]
            self.position += 1
            return BlockData(self.take(length))
        if code == _STRING:
            text = self.utf()
            self.remember(text)
            return text
        if code == _ARRAY:
            return self.array(depth)
        return self.rare_content(code, depth)

    def rare_content(self, code: int, depth: int) -> JavaValue:
        if code == _ENUM:
            java_class = self.class_description(depth + 1)
            value = JavaEnum("" if java_class is None else java_class.name, "")
            self.remember(value)
            value.constant = self.string(depth)
            return value
        if code == _LONG_STRING:
            text = self.decode(self.take(self.number(_I64)))
            self.remember(text)
            return text
        if code == _BLOCK_LONG:
            return BlockData(self.take(self.number(_I32)))
        if code == _CLASS:
            described = self.class_description(depth + 1)
            self.remember(described)
            return described
        if code in (_CLASS_DESC, _PROXY_CLASS_DESC):
            self.position -= 1
            return self.class_description(depth)
        self.position -= 1
        if code == _EXCEPTION:
            raise self.fail("the writing program failed and left its exception")
        raise self.fail(f"unexpected code 0x{code:02X}")

    def reference(self) -> JavaValue:
        handle: int = _I32.unpack_from(self.data, self.position)[0] - _FIRST_HANDLE
        self.position += _I32.size
        if not 0 <= handle < len(self.handles):
            raise self.fail("a back reference to nothing")
        return self.handles[handle]

    def string(self, depth: int) -> str:
        value = self.content(depth + 1)
        if not isinstance(value, str):
            raise self.fail("something else where a text belongs")
        return value

    def class_description(self, depth: int) -> JavaClass | None:
        if depth > MAX_DEPTH:
            raise self.fail(f"classes nested deeper than {MAX_DEPTH}")
        code = self.data[self.position]
        self.position += 1
        if code == _REFERENCE:
            value = self.reference()
            if not isinstance(value, JavaClass):
                raise self.fail("something else where a class belongs")
            return value
        if code == _NULL:
            return None
        if code == _CLASS_DESC:
            return self.new_class(depth)
        if code == _PROXY_CLASS_DESC:
            return self.new_proxy_class(depth)
        self.position -= 1
        raise self.fail("something else where a class belongs")

    def new_class(self, depth: int) -> JavaClass:
        java_class = JavaClass(self.utf())
        self.position += 8  # the serial version id
        self.remember(java_class)
        java_class.flags = self.data[self.position]
        self.position += 1
        for _ in range(self.number(_U16)):
            type_code = chr(self.data[self.position])
            self.position += 1
            name = self.utf()
            if type_code in "L[":
                self.string(depth)
            elif type_code not in _PRIMITIVES:
                raise self.fail(f"unknown field type 0x{ord(type_code):02X}")
            java_class.fields.append((name, type_code))
        self.finish_class(java_class, depth)
        return java_class

    def new_proxy_class(self, depth: int) -> JavaClass:
        count = self.number(_I32)
        if not 0 <= count <= len(self.data) - self.position:
            raise self.fail(f"{count} interfaces announced")
        java_class = JavaClass("", flags=_SERIALIZABLE)
        self.remember(java_class)
        java_class.name = "proxy of " + ", ".join(self.utf() for _ in range(count))
        self.finish_class(java_class, depth)
        return java_class

    def finish_class(self, java_class: JavaClass, depth: int) -> None:
        self.items(depth)
        parent = self.class_description(depth + 1)
        above = () if parent is None else parent.chain
        if len(above) >= MAX_DEPTH or (parent is not None and not above):
            raise self.fail("a class that descends from itself, or from too many")
        java_class.parent, java_class.chain = parent, (*above, java_class)
        java_class.layout = _layout(java_class.fields)

    def items(self, depth: int) -> list[JavaValue]:
        """Reads contents up to the mark that ends them."""
        items: list[JavaValue] = []
        data = self.data
        while (code := data[self.position]) != _END_BLOCK:
            if code == _NULL:  # the frequent ones without a detour
                self.position += 1
                items.append(None)
            elif code == _REFERENCE:
                self.position += 1
                items.append(self.reference())
            elif code == _RESET:
                self.position += 1
                self.handles.clear()
            else:
                items.append(self.content(depth + 1))
        self.position += 1
        return items

    def new_object(self, depth: int) -> JavaObject:
        java_class = self.class_description(depth + 1)
        if java_class is None:
            raise self.fail("an object without a class")
        value = JavaObject(java_class)
        self.remember(value)
        if java_class.flags & _EXTERNALIZABLE:
            if not java_class.flags & _HAS_BLOCK_DATA:
                raise self.fail(f"{java_class.name} is written by protocol version 1, whose length is unknown;")
            value.items = self.items(depth)
            return value
        for part in java_class.chain:
            if part.flags & _SERIALIZABLE:
                self.field_values(part, value.fields, depth)
                if part.flags & _HAS_WRITE_METHOD:
                    value.items += self.items(depth)
        return value

    def field_values(self, java_class: JavaClass, into: dict[str, JavaValue], depth: int) -> None:
        for names, form in java_class.layout:
            if form is None:
                value = self.content(depth + 1)
                if isinstance(value, BlockData):
                    raise self.fail(f"a block of data where field {names[0]} belongs")
                into[names[0]] = value
            else:
                into.update(zip(names, form.unpack_from(self.data, self.position), strict=True))
                self.position += form.size

    def array(self, depth: int) -> JavaArray:
        java_class = self.class_description(depth + 1)
        if java_class is None or len(java_class.name) < 2 or java_class.name[0] != "[":
            raise self.fail("an array without a class of arrays")
        value = JavaArray(java_class.name, [])
        self.remember(value)
        count = self.number(_I32)
        dtype = _DTYPES.get(java_class.name[1])
        if dtype is not None:
            start, length = self.position, count * dtype.itemsize
            if count < 0 or start + length > len(self.data):
                raise self.fail(f"{length} bytes announced, {len(self.data) - start} there")
            value.values = np.frombuffer(self.data, dtype, count, start) if count else np.empty(0, dtype)
            self.position = start + length
            return value
        if not 0 <= count <= len(self.data) - self.position:
            raise self.fail(f"an array of {count} elements announced")
        value.values = [self.content(depth + 1) for _ in range(count)]
        return value


def _layout(fields: list[tuple[str, str]]) -> list[tuple[tuple[str, ...], struct.Struct | None]]:
    """Groups neighbouring primitive fields, so that a run of them is decoded at once."""
    layout: list[tuple[tuple[str, ...], struct.Struct | None]] = []
    for is_primitive, group in groupby(fields, key=lambda item: item[1] in _PRIMITIVES):
        members = list(group)
        if is_primitive:
            form = struct.Struct(">" + "".join(_PRIMITIVES[code] for _, code in members))
            layout.append((tuple(name for name, _ in members), form))
        else:
            layout.extend(((name,), None) for name, _ in members)
    return layout
