"""What classes are called in DICOM: by a code of SNOMED CT where the name plainly has one, else by one of our own."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from dmmn_qp.labels.class_rules import is_tissue
from dmmn_qp.specs import TissueClass
from dmmn_qp.text import printable

OWN_SCHEME: Final = "99DMMNQP"
"""Designator of codes that are made of a class's name; 99 says that they are nobody else's."""

LONGEST: Final = 64
"""Characters that a label, or the meaning of a code, may have."""


@dataclass(frozen=True, slots=True)
class DicomCode:
    """A code: value, scheme and what it means."""

    value: str
    scheme: str
    meaning: str


_ABNORMAL: Final = DicomCode("49755003", "SCT", "Morphologically Abnormal Structure")
_TISSUE: Final = DicomCode("85756007", "SCT", "Tissue")
_SPATIAL: Final = DicomCode("309825002", "SCT", "Spatial and Relational Concept")

_PLAIN: Final = (
    (("neoplasm", "tumor", "tumour"), _ABNORMAL, DicomCode("108369006", "SCT", "Neoplasm")),
    (("carcinoma",), _ABNORMAL, DicomCode("1187425009", "SCT", "Carcinoma")),
    (("necrosis", "necrotic"), _ABNORMAL, DicomCode("6574001", "SCT", "Necrosis")),
    (("inflammation",), _ABNORMAL, DicomCode("409774005", "SCT", "Inflammation")),
    (("haemorrhage", "hemorrhage"), _ABNORMAL, DicomCode("50960005", "SCT", "Hemorrhage")),
    (("adipose", "adipose tissue", "fat"), _TISSUE, DicomCode("55603005", "SCT", "Fat")),
    (("blood",), _TISSUE, DicomCode("87612001", "SCT", "Blood")),
    (("blood vessel", "blood vessels"), _TISSUE, DicomCode("59820001", "SCT", "Blood Vessel")),
    (("bone", "bone tissue"), _TISSUE, DicomCode("3138006", "SCT", "Bone")),
    (("cartilage",), _TISSUE, DicomCode("309312004", "SCT", "Cartilage")),
    (("connective tissue",), _TISSUE, DicomCode("21793004", "SCT", "Connective tissue")),
    (("lymphoid tissue",), _TISSUE, DicomCode("6969002", "SCT", "Lymphoid tissue")),
    (("muscle", "muscle tissue"), _TISSUE, DicomCode("91727004", "SCT", "Muscle")),
    (("nerve",), _TISSUE, DicomCode("91728009", "SCT", "Nerve")),
    (("tissue",), _TISSUE, _TISSUE),
    (("background",), _SPATIAL, DicomCode("125040", "DCM", "Background")),
)
"""Names -> category and type. Names that mean several things, such as stroma, are not among them."""

_BY_NAME: Final = {name: codes for names, *codes in _PLAIN for name in names}


def codes_of(one: TissueClass) -> tuple[DicomCode, DicomCode]:
    """The category and the type of a class.

    A class whose name plainly has a code gets it; another one a code of our own, the same for the same name.
    """
    known = _BY_NAME.get(" ".join(one.name.casefold().strip(" *").split()))
    if known is not None:
        return known[0], known[1]
    value = hashlib.sha256(one.name.encode("utf-8", "backslashreplace")).hexdigest()[:12].upper()
    return _TISSUE if is_tissue(one) else _SPATIAL, DicomCode(value, OWN_SCHEME, dicom_text(one.name))


def dicom_text(text: str) -> str:
    """A text as DICOM holds it: on one line, at most `LONGEST` characters, without its separator of values."""
    plain = printable(text).replace("\\", "/").strip()
    return plain.encode("utf-8", "replace").decode()[:LONGEST].strip() or "?"
