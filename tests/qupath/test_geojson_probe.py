"""What the reader makes of 185 small files, each with one peculiarity.

The cases are those on which QuPath's own importer (0.5 to 0.7) was run. ``CLEAN`` are read without a remark. ``WARNED``
are those that QuPath refuses as a whole, reads as nothing, or repairs in ways that differ between versions, and those
of which something is lost here: they are read as far as they make sense, and the warning says so. ``REFUSED`` are
damaged as a whole, for it and for us.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from dmmn_qp.errors import AnnotationFileError
from dmmn_qp.qupath.geojson_reader import read_geojson

CLEAN = {
    0: """
        cont_array_empty.geojson cont_fc_empty.geojson
    """,
    1: """
        cell_nucleus.geojson cls_None_name.geojson cls_both_colors.geojson cls_color_empty.geojson
        cls_color_float.geojson cls_color_null.geojson cls_color_rgba.geojson cls_empty_object.geojson
        cls_extra_keys.geojson cls_ignore.geojson cls_in_properties_name_only.geojson
        cls_name_colon_colorRGB.geojson cls_name_colorRGB_int.geojson cls_name_color_array.geojson
        cls_name_spaces.geojson cls_name_unicode.geojson cls_name_with_colon.geojson cls_names_array.geojson
        cls_null.geojson cls_null_word.geojson cls_parentClass.geojson cls_string.geojson
        cls_string_derived.geojson cont_bare_geometry.geojson cont_fc_with_crs_bbox.geojson
        cont_featurecollection.geojson cont_single_feature.geojson g_3d.geojson g_4d.geojson
        g_bbox_member.geojson g_cw.geojson g_decimals.geojson g_duplicate_points.geojson g_ellipse_flag.geojson
        g_ellipse_on_square.geojson g_exponent.geojson g_hole_same_winding.geojson g_huge.geojson g_line.geojson
        g_multiline.geojson g_multipoint.geojson g_multipolygon.geojson g_multipolygon_one.geojson
        g_negative.geojson g_plane.geojson g_plane_partial.geojson g_point.geojson g_polygon_hole.geojson
        g_polyline.geojson g_rect_integer.geojson g_string_coords.geojson g_subpixel.geojson g_tiny.geojson
        id_in_properties.geojson id_int.geojson id_missing.geojson id_string.geojson id_uuid.geojson
        id_uuid_no_dashes.geojson id_uuid_short.geojson ot_PathAnnotationObject.geojson ot_annotation.geojson
        ot_cell.geojson ot_detection.geojson ot_legacy_id.geojson ot_missing.geojson ot_no_properties.geojson
        ot_object_type_v03.geojson ot_tile.geojson ot_tmaCore.geojson ot_tma_core.geojson ot_type_alias.geojson
        p_color_array.geojson p_color_int.geojson p_color_null.geojson p_description.geojson
        p_locked_false.geojson p_locked_int.geojson p_locked_null.geojson p_locked_snake.geojson
        p_locked_string.geojson p_locked_true.geojson p_meas_empty_list.geojson p_meas_list.geojson
        p_meas_list_nan.geojson p_meas_list_null.geojson p_meas_map.geojson p_meas_null.geojson
        p_meas_null_value.geojson p_metadata.geojson p_metadata_null.geojson p_name.geojson p_name_empty.geojson
        p_name_int.geojson p_unknown_extra.geojson x_comment.geojson x_duplicate_keys.geojson x_gz.geojson.gz
        x_json.json x_json.json.gz x_nan_literal.geojson x_single_quotes.geojson x_upper.GEOJSON
        x_utf8_bom.geojson
    """,
    2: """
        cont_array.geojson cont_array_of_collections.geojson id_duplicate_uuid.geojson p_children.geojson
    """,
}
"""Files by the number of objects in them."""

WARNED = {
    "cls_color_2.geojson": (1, ["class colour that is none, ignored"]),
    "cls_color_big.geojson": (1, ["class colour that is none, ignored"]),
    "cls_color_hex.geojson": (1, ["class colour written as QuPath 0.4 and later refuse it"]),
    "cls_color_int.geojson": (1, ["class colour written as QuPath 0.4 and later refuse it"]),
    "cls_list.geojson": (1, ["classification that QuPath itself refuses, ignored"]),
    "cls_name_empty.geojson": (1, ["class without a name, ignored"]),
    "cls_name_newline.geojson": (1, ["class name that QuPath itself refuses, tidied"]),
    "cls_name_null.geojson": (1, ["class without a name, ignored"]),
    "cls_name_only.geojson": (1, ["class without a colour, which QuPath 0.4 and later refuse"]),
    "cls_number.geojson": (1, ["classification that QuPath itself refuses, ignored"]),
    "cls_string_empty.geojson": (1, ["class without a name, ignored"]),
    "cls_stringified.geojson": (1, ["classification in JSON inside a text, unpacked"]),
    "cls_unclassified.geojson": (1, ['class "Unclassified", read as no class']),
    "cont_fc_no_type.geojson": (1, ['features outside a "FeatureCollection", which QuPath itself does not read']),
    "cont_one_bad_of_three.geojson": (3, ["class without a colour, which QuPath 0.4 and later refuse"]),
    "g_1d.geojson": (0, ["geometry whose coordinates are no points, left out"]),
    "g_all_same_point.geojson": (0, ["outline that covers no area, left out"]),
    "g_bad_type.geojson": (0, ["geometry of an unknown type, left out"]),
    "g_bare_collection.geojson": (
        1,
        ["GeometryCollection, which QuPath 0.6 and later refuse, read as its largest kind"],
    ),
    "g_bowtie.geojson": (1, ["outline that crosses, touches or overlaps itself, repaired"]),
    "g_collection_empty.geojson": (0, ["outline that covers no area, left out"]),
    "g_collection_mixed.geojson": (
        1,
        ["GeometryCollection, which QuPath 0.6 and later refuse, read as its largest kind"],
    ),
    "g_collection_polys.geojson": (
        1,
        ["GeometryCollection, which QuPath 0.6 and later refuse, read as its largest kind"],
    ),
    "g_empty_object.geojson": (0, ["feature without a geometry, left out"]),
    "g_figure8_touch.geojson": (1, ["outline that crosses, touches or overlaps itself, repaired"]),
    "g_hole_equals_shell.geojson": (0, ["outline that covers no area, left out"]),
    "g_hole_outside.geojson": (1, ["outline that crosses, touches or overlaps itself, repaired"]),
    "g_hole_touches_edge.geojson": (1, ["outline that crosses, touches or overlaps itself, repaired"]),
    "g_line_one_point.geojson": (0, ["line of fewer than two points, left out"]),
    "g_linearring.geojson": (0, ["geometry of an unknown type, left out"]),
    "g_missing.geojson": (0, ["feature without a geometry, left out"]),
    "g_multipoint_empty.geojson": (0, ["geometry without points, left out"]),
    "g_multipolygon_empty.geojson": (0, ["outline that covers no area, left out"]),
    "g_multipolygon_identical.geojson": (1, ["outline that crosses, touches or overlaps itself, repaired"]),
    "g_multipolygon_overlapping.geojson": (1, ["outline that crosses, touches or overlaps itself, repaired"]),
    "g_multipolygon_touching.geojson": (1, ["outline that crosses, touches or overlaps itself, repaired"]),
    "g_null.geojson": (0, ["feature without a geometry, left out"]),
    "g_null_coord.geojson": (0, ["geometry whose coordinates are no numbers on a slide, left out"]),
    "g_plane_null.geojson": (1, ["plane that QuPath itself refuses, ignored"]),
    "g_polygon_empty.geojson": (0, ["outline that covers no area, left out"]),
    "g_polygon_empty_ring.geojson": (0, ["outline that covers no area, left out"]),
    "g_spike.geojson": (1, ["outline that crosses, touches or overlaps itself, repaired"]),
    "g_two_points.geojson": (0, ["outline that covers no area, left out"]),
    "g_two_points_unclosed.geojson": (
        0,
        ["ring that is not closed, which QuPath itself refuses, closed", "outline that covers no area, left out"],
    ),
    "g_unclosed.geojson": (1, ["ring that is not closed, which QuPath itself refuses, closed"]),
    "g_zero_area.geojson": (0, ["outline that covers no area, left out"]),
    "id_null.geojson": (1, ["id that QuPath itself refuses, ignored"]),
    "id_object.geojson": (1, ["id that QuPath itself refuses, ignored"]),
    "ot_Annotation_cap.geojson": (1, ["unknown type of object, read as an annotation"]),
    "ot_banana.geojson": (1, ["unknown type of object, read as an annotation"]),
    "ot_null.geojson": (1, ["unknown type of object, read as an annotation"]),
    "ot_null_properties.geojson": (1, ['"properties" that QuPath itself refuses, ignored']),
    "ot_root.geojson": (0, ["root of a hierarchy, left out"]),
    "ot_unknown.geojson": (1, ["unknown type of object, read as an annotation"]),
    "p_color_rgba.geojson": (1, ["object colour that is none, ignored"]),
    "p_color_string.geojson": (1, ["object colour written as QuPath itself refuses it"]),
    "p_meas_bool.geojson": (1, ["measurement that is no number, left out"]),
    "p_meas_map_nan_string.geojson": (1, ["measurement that is no number, left out"]),
    "p_meas_text.geojson": (1, ["measurement that is no number, left out"]),
    "p_name_null.geojson": (1, ["name that QuPath itself refuses, ignored"]),
    "p_name_obj.geojson": (1, ["name that QuPath itself refuses, ignored"]),
    "x_empty.geojson": (0, ["empty file"]),
    "x_gz_misnamed.geojson": (1, ["file that QuPath does not read under its name (it needs .geojson.gz)"]),
    "x_gz_plain_ext.gz": (1, ["file that QuPath does not read under its name (it needs .geojson.gz)"]),
    "x_latin1.geojson": (1, ["file that is not UTF-8, some characters are lost (save it as UTF-8)"]),
    "x_nan_coord.geojson": (0, ["geometry whose coordinates are no numbers on a slide, left out"]),
    "x_plain_misnamed.geojson.gz": (1, ["file that QuPath does not read under its name (it needs .geojson)"]),
    "x_txt.txt": (1, ["file that QuPath does not read under its name (it needs .geojson)"]),
    "x_zip.zip": (2, ["file in the archive that is neither .geojson nor .json, left out"]),
    "x_zip_good_and_bad.zip": (
        3,
        [
            "class without a colour, which QuPath 0.4 and later refuse",
            "ring that is not closed, which QuPath itself refuses, closed",
        ],
    ),
    "x_zip_of_gz.zip": (0, ["file in the archive that is neither .geojson nor .json, left out"]),
}
"""Number of objects, and the reasons given."""

REFUSED = {
    "x_ndjson.geojson": "is truncated or no JSON",
    "x_trailing_comma.geojson": "is truncated or no JSON",
    "x_truncated.geojson": "is truncated or no JSON",
    "x_utf16.geojson": "is UTF-16",
}


def test_the_table_is_complete(data: Path) -> None:
    listed = [name for names in CLEAN.values() for name in names.split()] + [*WARNED, *REFUSED]
    assert len(listed) == len(set(listed)) == 185
    assert set(listed) == {path.name for path in (data / "probe").iterdir()}


@pytest.mark.parametrize(("count", "name"), [(count, name) for count in CLEAN for name in CLEAN[count].split()])
def test_clean(data: Path, name: str, count: int) -> None:
    result = read_geojson(data / "probe" / name)
    assert result.warnings == ()
    assert len(result.annotations) == count


@pytest.mark.parametrize(("name", "count", "reasons"), [(name, *expected) for name, expected in WARNED.items()])
def test_warned(data: Path, name: str, count: int, reasons: list[str]) -> None:
    result = read_geojson(data / "probe" / name)
    assert [warning.rpartition(": ")[0] for warning in result.warnings] == reasons
    assert len(result.annotations) == count
    assert all(item.geometry.is_valid and not item.geometry.is_empty for item in result.annotations)


@pytest.mark.parametrize(("name", "reason"), REFUSED.items())
def test_refused(data: Path, name: str, reason: str) -> None:
    with pytest.raises(AnnotationFileError) as raised:
        read_geojson(data / "probe" / name)
    assert reason in str(raised.value)
    assert name in str(raised.value)
    assert "\n" not in str(raised.value)
