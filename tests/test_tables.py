"""Tables as people, spreadsheets and programs write them, and tables that cannot be meant."""

import pytest

from dmmn_qp.errors import DatasetError
from dmmn_qp.files.tables import MAX_BYTES, MAX_ROWS, TableForm, read_table

FORM = TableForm(("slide", "mpp"), ("slide",), DatasetError)


def rows_of(folder, text):
    (folder / "t.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return [tuple(row.cells.values()) for row in read_table(folder / "t.csv", FORM)]


PLAIN = "slide,mpp\na,0.5\nb c,\n"


@pytest.mark.parametrize(
    "text",
    [
        PLAIN,
        PLAIN.replace(",", ";"),
        PLAIN.replace(",", "\t"),
        "sep=;\r\n" + PLAIN.replace(",", ";"),
        PLAIN.replace("\n", "\r\n"),
        PLAIN.replace("\n", "\r"),
        "\ufeff" + PLAIN,
        PLAIN.encode("utf-16"),
        b"\xfe\xff" + PLAIN.replace(",", "\t").encode("utf-16-be"),
        "\n \n Slide , MPP \n\n a , 0.5 \n\n,,\nb c\n",
        'note,MPP,"slide"\n"x, y",0.5,"a"\n"two\nlines",,b c,,\n',
        "who;mpp;slide\na,b;0.5;a\nc;;b c\n",
    ],
)
def test_any_dialect(tmp_path, text):
    assert rows_of(tmp_path, text) == [("a", "0.5"), ("b c", "")]


def test_quotes_and_separators_inside_cells(tmp_path):
    assert rows_of(tmp_path, 'mpp;slide\n1;"a;""b"""\n2; "c,d"\n') == [('a;"b"', "1"), ("c,d", "2")]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_blanks_around_quotes(tmp_path, separator):
    """Those inside belong to the cell, and what looks like the end of a cell there is none."""
    rows = ('"slide" ,  "mpp"  ', '"a "" , ""b" ,1', ' "c, ""d"" "  , "2" ')
    found = rows_of(tmp_path, "\n".join(rows).replace(",", separator))
    assert found == [(f'a " {separator} "b', "1"), (f'c{separator} "d"', "2")]
    with pytest.raises(FORM.error, match="no CSV"):
        rows_of(tmp_path, 'slide,mpp\n"a" b,1\n')


def test_rows_are_counted_as_a_spreadsheet_counts(tmp_path):
    for text, numbers in (('slide\n\n"a\nb"\nc\n', [3, 4]), ("sep=,\nslide\na\n", [3])):
        rows_of(tmp_path, text)
        rows = read_table(tmp_path / "t.csv", FORM)
        assert [row.where for row in rows] == [f'table "{tmp_path / "t.csv"}" row {n}' for n in numbers]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", 'must begin with the line "slide,mpp" (mpp may be missing); it begins ""'),
        ("a,b\n1,2\n", 'it begins "a,b"'),
        ("\x1b[31mslid\n", 'it begins "\\x1b[31mslid"'),
        ("slide,mpp\n", 'names no slide; write a row for each under the line "slide,mpp"'),
        ("slide,mpp,Slide\na,1,b\n", "row 1 has the column slide twice; keep one of them"),
        ("slide,mpp\n\n,0.5\n", "row 3, column slide: it is empty"),
        ("slide,mpp\na,0.5,1\n", "row 2 has 3 cells, but there are 2 columns"),
        ('slide\n"a\n', "is no CSV"),
        ('slide\n"a"b\n', "row 2 is no CSV"),
        ("slide\n" + "x" * 200_000, "is no CSV"),
        (b"slide\n\xff\n", "not UTF-8"),
        (b"\xff\xfes", "not UTF-16"),
        ("slide\na\0\n", "NUL"),
        ("slide\n" + "a\n" * MAX_ROWS, "has more than 200000 rows"),
        ("\n" * MAX_ROWS + "slide\na\n", "has more than 200000 rows"),
        (b"slide\n" + b"a\n" * (MAX_BYTES // 2), "longer than 16777216 bytes"),
    ],
)
def test_tables_that_cannot_be_meant(tmp_path, text, said):
    with pytest.raises(DatasetError) as error:
        rows_of(tmp_path, text)
    assert said in str(error.value) and "\n" not in str(error.value) and 'table "' in str(error.value)


def test_no_table(tmp_path):
    with pytest.raises(DatasetError, match="does not exist; check the path"):
        read_table(tmp_path / "none.csv", FORM)
    with pytest.raises(DatasetError, match="cannot be read"):
        read_table(tmp_path, FORM)
