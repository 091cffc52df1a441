package qupath.lib.roi

/** Stands in for QuPath's class of this name. */
class GeometryTools {
    static Roi geometryToROI(Outline geometry, Map plane) { new Roi(geometry: geometry, imagePlane: plane) }
}
