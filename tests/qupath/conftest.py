"""Material for the tests of QuPath's files, and a small writer of Java streams to make what QuPath rarely writes."""

from __future__ import annotations

import re
import shutil
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from uuid import UUID

import pytest

from tests.conftest import DEMO

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def data() -> Path:
    """The committed material."""
    return REPOSITORY / "tests" / "data" / "qupath"


@pytest.fixture(scope="session")
def demo() -> Path:
    """The example project."""
    folder = REPOSITORY / "examples" / "demo"
    if not (folder / "project.qpproj").is_file():
        pytest.skip(f"no demo project at {folder}")
    return folder


@pytest.fixture(scope="session")
def shared() -> Path:
    """Public material that may not be committed."""
    folder = REPOSITORY.parent / "shared" / "qupath"
    if not folder.is_dir():
        pytest.skip(f"no uncommitted QuPath material at {folder}")
    return folder


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The demo's project with its slides where it says."""
    folder = tmp_path / "project"
    folder.mkdir()
    for part in ("data", "classifiers"):
        shutil.copytree(DEMO / part, folder / part)
    text = (DEMO / "project.qpproj").read_text("utf-8")
    text = re.sub("file:/home/pathologist/slides", (DEMO / "slides").as_uri(), text)
    (folder / "project.qpproj").write_text(text, "utf-8")
    return folder / "project.qpproj"


class JavaWriter:
    """Writes the parts of Java's serialization protocol that QuPath's files consist of."""

    def __init__(self) -> None:
        self.data = bytearray(b"\xac\xed\x00\x05")
        self.handles = 0
        self.classes: dict[str, int] = {}

    def raw(self, data: bytes) -> None:
        self.data += data

    def remember(self) -> int:
        self.handles += 1
        return self.handles - 1

    def null(self) -> None:
        self.raw(b"\x70")

    def reference(self, handle: int) -> None:
        self.raw(b"\x71" + struct.pack(">I", 0x7E0000 + handle))

    def utf(self, text: str) -> None:
        encoded = text.encode()
        self.raw(struct.pack(">H", len(encoded)) + encoded)

    def text(self, text: str | None) -> None:
        if text is None:
            self.null()
            return
        self.raw(b"\x74")
        self.remember()
        self.utf(text)

    def block(self, form: str, *values: float | bytes) -> None:
        packed = struct.pack(">" + form, *values)
        self.raw(b"\x77" + bytes([len(packed)]) + packed)

    def end(self) -> None:
        self.raw(b"\x78")

    def class_description(self, names: Sequence[str], flags: int, fields: Sequence[tuple[str, str]] = ()) -> None:
        """Describe a class and its parents; ``names`` has the most derived first, fields belong to that one."""
        if not names:
            self.null()
            return
        if names[0] in self.classes:
            self.reference(self.classes[names[0]])
            return
        self.raw(b"\x72")
        self.utf(names[0])
        self.raw(bytes(8))
        self.classes[names[0]] = self.remember()
        self.raw(struct.pack(">BH", flags, len(fields)))
        for name, code in fields:
            self.raw(code[:1].encode())
            self.utf(name)
            if code[0] in "L[":
                self.text(code)
        self.end()
        self.class_description(names[1:], flags)

    def begin(self, names: Sequence[str], flags: int, fields: Sequence[tuple[str, str]] = ()) -> int:
        """Start an object; its values follow."""
        self.raw(b"\x73")
        self.class_description(names, flags, fields)
        return self.remember()

    def array(self, name: str, count: int) -> None:
        """Start an array; its values follow."""
        self.raw(b"\x75")
        self.class_description([name], 0x02)
        self.remember()
        self.raw(struct.pack(">i", count))


SERIALIZABLE, WITH_METHOD, EXTERNALIZABLE = 0x02, 0x03, 0x0C
Outline = Callable[["QpdataWriter"], None]


class QpdataWriter(JavaWriter):
    """Writes QuPath's object data, from single objects up to whole files."""

    def __init__(self) -> None:
        super().__init__()
        self.path_classes: dict[tuple[str, ...], int] = {}

    def integer(self, value: int) -> None:
        self.begin(["java.lang.Integer"], SERIALIZABLE, [("value", "I")])
        self.raw(struct.pack(">i", value))

    def boolean(self, value: bool) -> None:
        self.begin(["java.lang.Boolean"], SERIALIZABLE, [("value", "Z")])
        self.raw(struct.pack(">?", value))

    def uuid(self, value: UUID) -> None:
        self.begin(["java.util.UUID"], SERIALIZABLE, [("leastSigBits", "J"), ("mostSigBits", "J")])
        self.raw(value.bytes[8:] + value.bytes[:8])

    def path_class(self, names: Sequence[str], argb: int) -> None:
        fields = [("colorRGB", "Ljava/lang/Integer;"), ("name", "Ljava/lang/String;"), ("parentClass", "L?;")]
        if tuple(names) in self.path_classes:
            self.reference(self.path_classes[tuple(names)])
            return
        self.path_classes[tuple(names)] = self.begin(["qupath.lib.objects.classes.PathClass"], SERIALIZABLE, fields)
        self.integer(argb)
        self.text(names[-1])
        if len(names) > 1:
            self.path_class(names[:-1], argb)
        else:
            self.null()

    def metadata(self, pairs: Mapping[str, str]) -> None:
        self.begin(["qupath.lib.objects.MetadataMap"], EXTERNALIZABLE)
        self.integer(1)
        for texts in (list(pairs), list(pairs.values())):
            self.array("[Ljava.lang.Object;", len(texts))
            for text in texts:
                self.text(text)
        self.end()

    def measurements(self, pairs: Mapping[str, float]) -> None:
        fields = [("isClosed", "Z"), ("names", "Ljava/util/List;"), ("values", "[D")]
        self.begin(["qupath.lib.measurements.NumericMeasurementList$DoubleList"], SERIALIZABLE, fields)
        self.raw(b"\0")
        self.begin(["java.util.ArrayList"], WITH_METHOD, [("size", "I")])
        self.raw(struct.pack(">i", len(pairs)))
        self.block("i", len(pairs))
        for name in pairs:
            self.text(name)
        self.end()
        self.array("[D", len(pairs) + 1)
        self.raw(struct.pack(f">{len(pairs) + 1}d", *pairs.values(), 0.0))

    def points(self, shape: str, points: Sequence[tuple[float, float]]) -> None:
        """Write a PolygonROI, PolylineROI or PointsROI."""
        fields = [("c", "I"), ("t", "I"), ("z", "I"), ("x", "[F"), ("y", "[F")]
        self.begin([f"qupath.lib.roi.{shape}$SerializationProxy"], SERIALIZABLE, fields)
        self.raw(struct.pack(">iii", -1, 0, 0))
        for axis in (0, 1):
            self.array("[F", len(points))
            self.raw(struct.pack(f">{len(points)}f", *(point[axis] for point in points)))

    def corners(self, shape: str, x: float, y: float, x2: float, y2: float) -> None:
        """Write a RectangleROI, EllipseROI or LineROI."""
        fields = [("c", "I"), ("t", "I"), ("x", "D"), ("x2", "D"), ("y", "D"), ("y2", "D"), ("z", "I")]
        self.begin([f"qupath.lib.roi.{shape}$SerializationProxy"], SERIALIZABLE, fields)
        self.raw(struct.pack(">iiddddi", -1, 0, x, x2, y, y2, 0))

    def wkb(self, data: bytes, name: str = "GeometryROI$WKBSerializationProxy") -> None:
        fields = [("c", "I"), ("t", "I"), ("z", "I"), ("stats", "L?;"), ("wkb", "[B")]
        self.begin([f"qupath.lib.roi.{name}"], SERIALIZABLE, fields)
        self.raw(struct.pack(">iii", -1, 0, 0))
        self.null()
        self.array("[B", len(data))
        self.raw(data)

    def path_object(
        self,
        outline: Outline | None,
        *,
        kind: str = "PathAnnotationObject",
        name: str | None = None,
        object_id: UUID | None = None,
        metadata: Mapping[str, str] | None = None,
        measurements: Mapping[str, float] | None = None,
        class_names: Sequence[str] = (),
        locked: bool = False,
        children: Sequence[Callable[[], object]] = (),
        missing: bool | None = None,
        version: int = 3,
    ) -> int:
        """Write an object of the hierarchy; ``children`` are called to write themselves."""
        above = [] if kind in ("PathObject", "PathROIObject") else ["PathROIObject", "PathObject"]
        handle = self.begin([f"qupath.lib.objects.{part}" for part in (kind, *above)], EXTERNALIZABLE)
        self.text(name)
        self.null()
        parts: list[Callable[[], None]] = []
        pairs = dict(metadata or {})
        if object_id is not None and version < 4:
            pairs["Object ID"] = str(object_id)
        if pairs:
            parts.append(lambda: self.metadata(pairs))
        if measurements:
            parts.append(lambda: self.measurements(measurements))
        if version >= 4:
            assert object_id is not None
            self.uuid(object_id)
            if parts:
                self.block("i", len(parts))
            else:
                self.block("ii", 0, len(children))
        for part in parts:
            part()
        if version < 4 and not measurements:
            self.null()
        if version < 4 or parts:
            self.block("i", len(children))
        for child in children:
            child()
        if kind != "PathRootObject":
            self.boolean(locked)
            if class_names:
                self.path_class(class_names, -377282)
            else:
                self.null()
            if outline is None:
                self.null()
            else:
                outline(self)
            self.block(*("d", float("nan")) if missing is None else ("d?", float("nan"), missing))
        self.end()
        return handle

    def file(self, *objects: Callable[[], object], version: int = 3) -> bytes:
        """Write a whole file whose root has the given children."""
        header = f"Data file version {version}".encode()
        self.block(f"H{len(header)}s", len(header), header)
        self.text("{}")
        self.begin(
            ["qupath.lib.objects.hierarchy.PathObjectHierarchy"],
            SERIALIZABLE,
            [("rootObject", "L?;"), ("tmaGrid", "L?;")],
        )
        root_id = UUID(int=1)
        self.path_object(None, kind="PathRootObject", object_id=root_id, children=objects, version=version)
        self.null()
        self.text("EOF")
        return bytes(self.data)


@pytest.fixture
def writer() -> QpdataWriter:
    """A new writer of object data."""
    return QpdataWriter()
