package qupath.lib.scripting

import groovy.json.JsonOutput

/**
 * Stands in for QuPath's class of this name in the tests of our scripts: just the calls that they make, with the
 * behaviour that the documentation of QuPath 0.4 to 0.7 gives them.
 */
class QP {
    static final String PROJECT_BASE_DIR = "{%PROJECT}"
    static Image image
    static TheProject project
    static boolean resolved
    static int updates

    static TheProject getProject() { project }
    static Entry getProjectEntry() { project?.imageList?.find { it.image.is(image) } }
    static Image getCurrentImageData() { image }
    static Server getCurrentServer() { image?.server }
    static String getCurrentImageName() { getProjectEntry()?.imageName ?: image?.server?.metadata?.name }
    static Collection getAnnotationObjects() { image.hierarchy.annotationObjects }
    static Collection getDetectionObjects() { image.objects.findAll { it.isDetection() } }
    static Collection getSelectedObjects() { image.objects.findAll { it.selected } }
    static void removeObjects(Collection objects, boolean keepChildren) {
        assert keepChildren
        image.objects.removeAll { candidate -> objects.any { it.is(candidate) } }
    }
    static void addObjects(Collection objects) { image.objects.addAll(objects) }
    static void resolveHierarchy() { resolved = true }
    static void fireHierarchyUpdate() { updates++ }
    static String buildFilePath(String... parts) {
        parts.collect { it == PROJECT_BASE_DIR ? project.folder : it }.join(File.separator)
    }
    static void mkdirs(String path) { new File(path).mkdirs() }
    static void exportObjectsToGeoJson(Collection objects, String path, String option) {
        assert option == "FEATURE_COLLECTION"
        new File(path).text = JsonOutput.toJson([type: "FeatureCollection", features: objects*.feature])
    }

    static class Image {
        Server server
        List objects = []
        Hierarchy getHierarchy() { new Hierarchy(image: this) }
    }

    static class Hierarchy {
        Image image
        Collection getAnnotationObjects() { image.objects.findAll { it.isAnnotation() } }
    }

    static class TheProject {
        String folder
        List<Entry> imageList = []
        List pathClasses = []
    }

    static class Entry {
        String imageName
        Image image
        String getID() { String.valueOf(System.identityHashCode(this)) }
        Collection<URI> getURIs() { image.server.getURIs() }
        Image readImageData() { image }
    }

    static class Server implements Closeable {
        URI uri
        int width = 100
        int height = 80
        Double mpp
        Collection<URI> getURIs() { [uri] as Set }
        Metadata getMetadata() { new Metadata(name: new File(uri).name) }
        Calibration getPixelCalibration() { new Calibration(mpp: mpp) }
        void close() { }
    }

    static class Metadata {
        String name
    }

    static class CroppedImageServer extends Server { }

    static class Calibration {
        Double mpp
        boolean hasPixelSizeMicrons() { mpp != null }
        double getAveragedPixelSizeMicrons() { mpp == null ? Double.NaN : mpp }
    }

    /** A class of tissue. */
    static class TissueClass {
        String name
        Integer color
        String toString() { name }
    }

    /** An object as QuPath 0.4 and 0.5 show it: its metadata can be seen in GeoJSON only. */
    static class PathObject {
        Map feature
        boolean selected
        UUID getID() { UUID.fromString(feature.id) }
        boolean isLocked() { feature.properties.isLocked == true }
        boolean isAnnotation() { feature.properties.objectType == "annotation" }
        boolean isDetection() { feature.properties.objectType == "detection" }
        boolean hasROI() { true }
        Area getROI() { new Area() }
    }

    static class Area {
        boolean isArea() { true }
    }

    /** An object as QuPath 0.6 and later show it. */
    static class PathObjectWithMetadata extends PathObject {
        Map getMetadata() { feature.properties.metadata ?: [:] }
    }
}
