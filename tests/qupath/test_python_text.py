"""Values that a Python program wrote as text: read as meant, and never run."""

import pytest

from dmmn_qp.qupath.geojson_reader import objects_of
from dmmn_qp.qupath.python_text import MAX_LENGTH, parse_python_text
from tests.conftest import rectangle


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{'name': 'Tumor', 'color': [200, 0, 0]}", {"name": "Tumor", "color": [200, 0, 0]}),
        ("{'color': (np.int32(150), numpy.uint8(200), int(0))}", {"color": [150, 200, 0]}),
        ("{'color': array([1, 2, 3]), 'p': np.float64(0.5),}", {"color": [1, 2, 3], "p": 0.5}),
        ("{'color': (), 'one': (7,), 'deep': ((1, 2), [3])}", {"color": [], "one": [7], "deep": [[1, 2], [3]]}),
        (r"""{'name': "it's", "n": 'a\'b\\c\x41\u00e4\n'}""", {"name": "it's", "n": "a'b\\cAä\n"}),
        ("{'a': None, 'b': True, 'c': False, 'd': +1e3}", {"a": None, "b": True, "c": False, "d": 1000}),
        ("{'isn(t': 'a, )b]'}", {"isn(t": "a, )b]"}),
    ],
)  # fmt: skip
def test_values(text, value):
    assert parse_python_text(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "{", "{'a': 1)}", "{'a': 1", "{'a'}", "{1: 2}", "{'a': b}", "{'a': 1 + 2}", "{'a': '}", "{'a': 1)", "{'a' 1}",
        "{'a': __import__('os').system('x')}", "{'a': [x for x in y]}", "{'a': open('x').read()}", "{'a': f'{1}'}",
        "{'a': int()}", "{'a': '\\ud800'}", "{'a': '\\Uffffffff'}", "(" * 1500, "[" * 1999,
        "{'a': '" + "x" * MAX_LENGTH + "'}",
        "{'a': 9" + "9" * 400 + "}", "{'a': 1e999}",
    ],
)  # fmt: skip
def test_what_is_no_plain_value_is_refused(text):
    with pytest.raises(ValueError):
        parse_python_text(text)


def test_class_that_a_python_program_wrote_as_text():
    texts = [
        '{"name": "Tumor", "color": [200, 0, 0]}',
        "{'name': 'Stroma', 'color': [np.int32(150), np.int32(200), np.int32(150)]}",
        "{'name': 'Tumor', 'color': [200, 0, 0]}",
        "{'name': Tumor}",
        "{Tumor}",
    ]
    features = [rectangle(i * 20, 0, 10, 10, None) for i in range(5)]
    for feature, text in zip(features, texts, strict=True):
        feature["properties"]["classification"] = text
    result = objects_of(features, "test")
    assert [(a.class_name, a.class_color) for a in result.annotations] == [
        ("Tumor", (200, 0, 0)), ("Stroma", (150, 200, 150)), ("Tumor", (200, 0, 0)), ("{'name': Tumor}", None),
        ("{Tumor}", None),
    ]  # fmt: skip
    assert result.warnings == (
        "classification in JSON inside a text, unpacked: feature 1",
        "classification in Python inside a text, unpacked: feature 2 and 1 more",
        "classification that looks like data inside a text, but is none, read as the name of a class: feature 4",
    )
