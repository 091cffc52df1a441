"""Values in ``data.qpdata``: what Java objects of a stream stand for, one after the other or one by one."""

from __future__ import annotations

import struct
from uuid import UUID

from dmmn_qp.annotations import Color
from dmmn_qp.qupath.classes import argb_to_rgb
from dmmn_qp.qupath.java_stream import BlockData, JavaArray, JavaObject, JavaValue
from dmmn_qp.qupath.qpdata_outlines import DamagedError, real_of

_BYTE = struct.Struct(">B")


class Run:
    """The items that one object wrote by its own method, taken one after the other.

    Primitives come in blocks; how many share a block depends on what lies between them.
    """

    def __init__(self, written_by: JavaObject) -> None:
        self._owner = written_by.class_name
        self._items = written_by.items
        self._next = 0
        self._block = b""

    def peek(self) -> JavaValue:
        """The next object without taking it; None also at the end."""
        return self._items[self._next] if self._next < len(self._items) else None

    def take(self) -> JavaValue:
        """Takes the next object, which may be null."""
        if self._next >= len(self._items):
            raise DamagedError(f"{self._owner} ends early")
        value = self._items[self._next]
        if isinstance(value, BlockData):
            raise DamagedError(f"{self._owner} holds numbers where an object belongs")
        self._next += 1
        return value

    def primitive(self, form: struct.Struct) -> int:
        """Takes the next primitive, from the block at hand or from the next one."""
        size = form.size
        while len(self._block) < size:
            following = self.peek()
            if not isinstance(following, BlockData):
                raise DamagedError(f"{self._owner} lacks a number")
            self._block += following.data
            self._next += 1
        value: int = form.unpack_from(self._block)[0]
        self._block = self._block[size:]
        return value

    def flag(self) -> bool:
        """Takes the next primitive as a truth value; False where there is none left."""
        has_more = bool(self._block) or isinstance(self.peek(), BlockData)
        return has_more and self.primitive(_BYTE) != 0


def simple_name(value: JavaValue) -> str:
    """Class name without its package; empty for what is no object."""
    return value.class_name.rpartition(".")[2] if isinstance(value, JavaObject) else ""


def unboxed(value: JavaValue) -> JavaValue:
    """The primitive in a boxed Integer, Boolean, Double ..."""
    return value.fields.get("value") if isinstance(value, JavaObject) else value


def color_of(value: JavaValue) -> Color | None:
    """The colour that a packed integer stands for; None for anything else."""
    argb = unboxed(value)
    return argb_to_rgb(argb) if isinstance(argb, int) else None


def length_of(value: JavaValue) -> int:
    """Number of values of an array; 0 for what is none."""
    return len(value.values) if isinstance(value, JavaArray) else 0


def checked_count(number: int, owner: JavaObject | None) -> int:
    """A number of things to come; a wrong one runs into the end of the items."""
    if number < 0:
        raise DamagedError(f"{'a list' if owner is None else owner.class_name} of {number} parts")
    return number


def elements_of(value: JavaValue, *path: str) -> list[JavaValue]:
    """Elements of a Java array or list, the wrapped lists of ``java.util.Collections`` included.

    Args:
        value: The array or list; None counts as empty.
        path: Fields to follow first.
    """
    for name in (*path, "list", "c", "a"):
        if isinstance(value, JavaObject) and isinstance(value.fields.get(name), (JavaObject, JavaArray)):
            value = value.fields[name]
    if value is None:
        return []
    if isinstance(value, JavaArray):
        return value.values if isinstance(value.values, list) else []
    if isinstance(value, JavaObject):
        return [item for item in value.items if not isinstance(item, BlockData)]
    raise DamagedError("something else where a list belongs")


def measurement_of(value: JavaValue) -> tuple[str, float]:
    """Name and value of a measurement that is an object of its own.

    Raises:
        DamagedError: It has no name.
    """
    fields = value.fields if isinstance(value, JavaObject) else {}
    name, number = fields.get("name"), fields.get("value")
    if not isinstance(name, str):
        raise DamagedError("a measurement without a name")
    return name, real_of(number)


def uuid_of(value: JavaValue) -> UUID | None:
    """The id that a Java UUID stands for; None for anything else."""
    fields = value.fields if isinstance(value, JavaObject) else {}
    most, least = fields.get("mostSigBits"), fields.get("leastSigBits")
    if not isinstance(most, int) or not isinstance(least, int):
        return None
    return UUID(int=((most & (2**64 - 1)) << 64) | (least & (2**64 - 1)))
