package qupath.lib.roi

/** Stands in for QuPath's ROIs that are areas. */
class Roi {
    Outline geometry
    Map imagePlane   // c, z and t
    boolean isArea() { true }
    int getZ() { imagePlane.z ?: 0 }
    int getT() { imagePlane.t ?: 0 }
    double getBoundsX() { numbers(0).min() }
    double getBoundsY() { numbers(1).min() }
    double getBoundsWidth() { numbers(0).max() - numbers(0).min() }
    double getBoundsHeight() { numbers(1).max() - numbers(1).min() }
    private List<Double> numbers(int axis) { geometry.polygons.collectMany { it[0] }.collect { it[axis] as double } }
}
