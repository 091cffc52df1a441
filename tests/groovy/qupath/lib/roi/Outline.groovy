package qupath.lib.roi

import java.awt.geom.Area
import java.awt.geom.Line2D
import java.awt.geom.Path2D
import java.awt.geom.PathIterator

/**
 * Stands in for the polygons of the Java Topology Suite that QuPath makes of its ROIs: just the calls of our scripts.
 * Like QuPath, it rounds to 0.01 px, and like that library, it promises nothing of where a ring starts.
 */
class Outline {
    static int turns   // by how many points new rings are turned: nothing may depend on it

    /** Polygons are lists of rings, the border and then the holes; rings are closed lists of [x, y]. */
    List<List> polygons

    static Outline ofGeoJson(Map geometry) {
        new Outline(polygons: geometry.type == "Polygon" ? [geometry.coordinates] : geometry.coordinates)
    }
    Map toGeoJson() {
        polygons.size() == 1 ? [type: "Polygon", coordinates: polygons[0]] : [type: "MultiPolygon", coordinates: polygons]
    }

    double getArea() { polygons.sum(0d) { rings -> areaOf(rings[0]) - rings.tail().sum(0d) { areaOf(it) } } }
    double getLength() { polygons.sum(0d) { rings -> rings.sum(0d) { lengthOf(it) } } }
    int getNumGeometries() { polygons.size() }
    Outline getGeometryN(int n) { new Outline(polygons: [polygons[n]]) }
    Outline union(Outline other) { combined(other, "add") }
    Outline intersection(Outline other) { combined(other, "intersect") }
    Outline difference(Outline other) { combined(other, "subtract") }
    Factory getFactory() { new Factory() }

    /** Between outlines that do not cross: from the points of each to the edges of the other. */
    double distance(Outline other) {
        [[this, other], [other, this]].collectMany { a, b ->
            def edges = b.polygons.collectMany { it }.collectMany { ring -> [ring.init(), ring.tail()].transpose() }
            a.polygons.collectMany { it }.collectMany { it }.collect { point ->
                edges.collect { from, to -> Line2D.ptSegDist(*from, *to, *point) }.min()
            }
        }.min()
    }

    /** The same rings, each from its least point on and in the same direction, in a fixed order. */
    Outline norm() {
        new Outline(polygons: polygons.collect { rings -> [normal(rings[0])] + rings.tail().collect { normal(it) }.sort(false) {
            it.toString() } }.sort(false) { it.toString() })
    }
    String toText() { polygons.toString() }

    static class Factory {
        Outline buildGeometry(Collection<Outline> parts) { new Outline(polygons: parts.collectMany { it.polygons }) }
    }

    private Outline combined(Outline other, String how) {
        if ([this, other].any { outline -> outline.polygons.any { rings -> rings.any { areaOf(it) == 0 } } })
            throw new IllegalArgumentException("found non-noded intersection")
        def result = new Area(path(polygons.collectMany { it }))
        result."$how"(new Area(path(other.polygons.collectMany { it })))
        def rings = ringsOf(result)
        def around = rings.collect { ring -> rings.findAll { !it.is(ring) && path([it]).contains(*ring[0]) } }
        def holes = rings.indices.findAll { around[it].size() % 2 == 1 }
        new Outline(polygons: (rings.indices - holes).collect { border ->
            [rings[border]] + holes.findAll { hole -> around[hole].min { areaOf(it) }.is(rings[border]) }.collect { rings[it] }
        })
    }

    private static Path2D path(List rings) {
        def path = new Path2D.Double(Path2D.WIND_EVEN_ODD)
        for (ring in rings) {
            path.moveTo(*ring[0])
            ring.tail().each { path.lineTo(*it) }
            path.closePath()
        }
        path
    }

    private static List ringsOf(Area area) {
        def rings = []
        double[] at = new double[6]
        for (def step = area.getPathIterator(null); !step.isDone(); step.next()) {
            int kind = step.currentSegment(at)
            if (kind == PathIterator.SEG_MOVETO)
                rings << []
            if (kind != PathIterator.SEG_CLOSE)
                rings.last() << [Math.round(at[0] * 100) / 100d, Math.round(at[1] * 100) / 100d]
        }
        rings.collect { ring ->
            def open = ring.first() == ring.last() ? ring.init() : ring
            closed(open, turns % open.size())
        }.findAll { areaOf(it) > 0 }
    }

    private static List closed(List open, int start) { open.drop(start) + open.take(start + 1) }
    private static List normal(List ring) {
        def open = signedArea(ring) < 0 ? ring.reverse().tail() : ring.init()
        closed(open, open.indexOf(open.toSorted { a, b -> a[0] <=> b[0] ?: a[1] <=> b[1] }[0]))
    }
    private static double areaOf(List ring) { Math.abs(signedArea(ring)) }
    private static double signedArea(List ring) {
        [ring.init(), ring.tail()].transpose().sum(0d) { a, b -> (a[0] * b[1] - b[0] * a[1]) / 2 }
    }
    private static double lengthOf(List ring) {
        [ring.init(), ring.tail()].transpose().sum(0d) { a, b -> Math.hypot(b[0] - a[0] as double, b[1] - a[1] as double) }
    }
}
