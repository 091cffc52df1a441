package qupath.lib.scripting

import groovy.json.JsonOutput
import java.nio.file.Path
import qupath.lib.roi.Outline
import qupath.lib.roi.Roi

/**
 * Stands in for QuPath's class of this name in the tests of our scripts: just the calls that they make, with the
 * behaviour that the documentation of QuPath 0.4 to 0.7 gives them.
 */
class QP {
    static final String PROJECT_BASE_DIR = "{%PROJECT}"
    static String version   // of QuPath
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

    static class Selection {
        Image image
        Set getSelectedObjects() { image.objects.findAll { it.selected } as LinkedHashSet }
        void setSelectedObject(object) { image.objects.each { it.selected = it.is(object) } }
    }

    static class Hierarchy {
        Image image
        Collection getAnnotationObjects() { image.objects.findAll { it.isAnnotation() } }
        Collection getDetectionObjects() { image.objects.findAll { it.isDetection() } }
        Selection getSelectionModel() { new Selection(image: image) }
        boolean addObjects(Collection objects) { image.objects.addAll(objects) }
        void removeObjects(Collection objects, boolean keepChildren) {
            assert keepChildren
            image.objects.removeAll { candidate -> objects.any { it.is(candidate) } }
        }
        void fireHierarchyChangedEvent(source) { QP.updates++ }
    }

    static class TheProject {
        String folder
        List<Entry> imageList = []
        List pathClasses = []
        int saved
        Path getPath() { Path.of(folder, "project.qpproj") }
        Entry getEntry(Image image) { imageList.find { it.image.is(image) } }
        void syncChanges() { saved++ }
    }

    static class Entry {
        String imageName
        Image image
        List saved   // ids of the objects when it was saved last
        String id
        String getID() { id ?: String.valueOf(System.identityHashCode(this)) }
        Collection<URI> getURIs() { image.server.getURIs() }
        Image readImageData() { image }
        void saveImageData(Image image) { saved = image.objects*.feature.collect { it.id } }
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

    /** A server around another one, which only its own package may see in QuPath. */
    static class Wrapper extends Server {
        Server inner
        Collection<URI> getURIs() { inner.getURIs() }
        protected Server getWrappedServer() { inner }
    }

    static class CroppedImageServer extends Wrapper { }

    static class FlippedImageServer extends Wrapper { }

    static class ChannelTransformFeatureServer extends Wrapper { }

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

    /** An object of QuPath 0.4 to 0.7; what it holds is kept as GeoJSON. */
    static class PathObject {
        Map feature
        boolean selected
        private Roi roi
        UUID getID() { UUID.fromString(feature.id) }
        void setID(UUID id) { feature.id = id.toString() }
        void setLocked(boolean locked) { feature.properties.isLocked = locked }
        String getName() { feature.properties.name }
        boolean isLocked() { feature.properties.isLocked == true }
        boolean isAnnotation() { feature.properties.objectType == "annotation" }
        boolean isDetection() { feature.properties.objectType == "detection" }
        TissueClass getPathClass() {
            def told = feature.properties.classification
            told == null ? null : new TissueClass(name: (told.names ?: [told.name]).join(": "))
        }
        boolean hasROI() { true }
        Roi getROI() {
            roi = roi ?: new Roi(geometry: Outline.ofGeoJson(feature.geometry), imagePlane: feature.geometry.plane ?: [:])
        }
        /** An outline that is another one takes the measurements with it. */
        void setROI(Roi other) {
            if (other.is(getROI()))
                return
            roi = other
            feature.geometry = other.geometry.toGeoJson() + (other.imagePlane ? [plane: other.imagePlane] : [:])
            feature.properties.remove("measurements")
        }
        boolean hasMeasurements() { feature.properties.measurements as boolean }
        MeasurementList getMeasurementList() { new MeasurementList(properties: feature.properties) }
    }

    static class MeasurementList {
        Map properties
        boolean containsKey(String name) { properties.measurements?.containsKey(name) ?: false }
        double get(String name) { containsKey(name) ? properties.measurements[name] as double : Double.NaN }
        void put(String name, double value) { properties.measurements = (properties.measurements ?: [:]) + [(name): value] }
    }

    /** An object as QuPath 0.6 and later show it: its metadata is more than a part of its GeoJSON. */
    static class PathObjectWithMetadata extends PathObject {
        Map getMetadata() { feature.properties.metadata ?: [:] }
    }

    /** An object of this QuPath; 0.4 forgets metadata when it reads GeoJSON. */
    static PathObject object(Map feature) {
        if (version == "0.4")
            feature.properties.remove("metadata")
        (version in ["0.4", "0.5"] ? PathObject : PathObjectWithMetadata).newInstance(
            feature: feature, selected: feature.selected == true)
    }
}
