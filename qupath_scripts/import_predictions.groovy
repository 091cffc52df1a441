/*
 * Shows the predictions of dmmn-qp in QuPath, or with the folder "suggestions" as argument the regions it suggests.
 *
 * Reads <folder>/<slide>.geojson (or .geojson.gz), removes what an earlier import of dmmn-qp left in the image, and
 * adds the new objects. Objects drawn in QuPath stay, and so does what was reviewed: what is locked (right-click >
 * Lock), has another class than was predicted, or another outline. New outlines are cut by it, so that nothing lies
 * doubled.
 * <slide> is the slide's file name without its ending, or else the image's name.
 *
 * Arguments, in any order: the folder, and "resolve" to make objects children of those they lie in.
 *
 * For QuPath 0.4 to 0.7, from the script editor (Run, Run for project) or with `QuPath script`.
 * Licence: Apache-2.0.
 */
import static qupath.lib.scripting.QP.*

import java.util.zip.CRC32

import qupath.lib.io.GsonTools
import qupath.lib.io.PathIO
import qupath.lib.roi.GeometryTools

String folder = ""        // empty: "predictions" beside project.qpproj
boolean resolve = false   // true: resolve the hierarchy afterwards

def given = []
try { given = (args ?: []) as List } catch (MissingPropertyException ignored) { }  // the script editor may give none
resolve |= given.contains("resolve")
folder = given.find { it != "resolve" } ?: folder
if (!folder && getProject() == null)
    throw new IllegalArgumentException("no project is open; write the predictions' folder into this script")
if (getCurrentImageData() == null)
    throw new IllegalStateException("no image is open")
// A relative folder is one of the project's.
def below = { String path ->
    new File(path).isAbsolute() || getProject() == null ? new File(path) : new File(buildFilePath(PROJECT_BASE_DIR), path)
}
def predictions = below(folder ?: "predictions")

// The names that dmmn-qp gives: the file's name without its last ending, other characters than these as "_".
def stem = { String name -> name.lastIndexOf(".") > 0 ? name.substring(0, name.lastIndexOf(".")) : name }
// Entries of a project: QuPath before 0.6 has another name for it.
def urisOf = { it.metaClass.respondsTo(it, "getURIs") ? it.getURIs() : it.getServerURIs() }
def fileName = { uris -> uris.size() == 1 ? uris[0].getPath()?.tokenize("/")?.last() : null }
def slide = fileName(getCurrentServer().getURIs() as List) ?: getCurrentImageName()
def names = [stem(slide).replaceAll(/(?U)[^\w.()+ -]/, "_"), stem(slide), stem(getCurrentImageName())].unique()
def file = names.collectMany { [new File(predictions, it + ".geojson"), new File(predictions, it + ".geojson.gz")] }
    .find { it.isFile() }
if (file == null) {
    println getCurrentImageName() + ": " + (predictions.isDirectory() ? "no " + names[0] + ".geojson in " + predictions
        : "there is no folder " + predictions) + "; nothing changed"
    return
}
def shown = (getProject()?.getImageList() ?: []).count { fileName(urisOf(it) as List) == slide }
if (shown > 1) {
    println getCurrentImageName() + ": " + shown + " images of the project are named " + slide +
        ", so it is not clear whose " + file.getName() + " is; nothing changed. Use: dmmn-qp push --into project.qpproj"
    return
}

// Read before removing: a file that QuPath refuses then changes nothing.
def added = PathIO.readObjects(file)

// ---- Ours, and reviewed: the same in import_predictions, run_dmmn, clear_predictions and dmmn
// Ours are known by their ids, which every QuPath from 0.4 on keeps. A copy has another id but, from QuPath 0.6 on, our
// metadata too; it is ours for as long as it is what was predicted, and the user's once it was changed.
def gson = GsonTools.getInstance()
def metadataOf = {
    if (it.metaClass.respondsTo(it, "getMetadata"))
        return it.getMetadata()
    def text = it.isAnnotation() ? gson.toJson(it) : ""
    text.contains('"dmmn_qp":') ? gson.fromJson(text, Map)["properties"]["metadata"] ?: [:] : [:]
}
def has = { object, String name -> object.hasMeasurements() && object.getMeasurementList().containsKey(name) }
// QuPath empties the measurements whenever an outline changes: an object without this one was changed.
def isMeasured = { has(it, "Perimeter \u00b5m") }
def isMarked = { it.getID().version() == 5 && it.getID().toString().startsWith("d1337b0f") }
def isTissue = {
    def mark = isMarked(it) && !isMeasured(it) ? metadataOf(it)["dmmn_qp"] : ""
    mark == null ? it.getID().toString().substring(9, 13) == "0000" : mark == "tissue"
}
// A class's number: the lower 24 bits of the CRC-32 of its full name; -1 where there is none.
def codeOf = { String name ->
    if (name == null)
        return -1
    def sum = new CRC32()
    sum.update(name.getBytes("UTF-8"))
    (int) (sum.getValue() & 0xFFFFFF)
}
def predictedCode = {   // null where the object does not say it
    if (has(it, "Predicted class code"))
        return (int) it.getMeasurementList().get("Predicted class code")
    def name = metadataOf(it)["dmmn_qp_class"]
    name == null ? null : codeOf(name)
}
def classCode = { codeOf(it.getPathClass()?.toString()) }
// A suggested region; it is ours for as long as nobody made anything of it.
def isFromSuggestion = {
    def marked = isMarked(it) ? it.getID().toString().substring(9, 13) == "0002" :
        has(it, "Suggestion rank") && metadataOf(it)["dmmn_qp"] == "suggestion"
    marked && predictedCode(it) == null
}
def isUnchangedCopy = { isMeasured(it) && metadataOf(it).containsKey("dmmn_qp") && predictedCode(it) == classCode(it) }
def ours = [*getAnnotationObjects(), *getDetectionObjects()]
    .findAll { isMarked(it) ? !isTissue(it) && !isFromSuggestion(it) : isUnchangedCopy(it) }
boolean outlinesTold = ours.any { isMeasured(it) }   // else measurements were left out when they were exported
def isReviewed = {
    def predicted = it.isLocked() ? null : predictedCode(it)
    it.isLocked() || (predicted != null && predicted != classCode(it)) || !isMeasured(it)
}
def (reviewed, unchecked) = ours.split { isReviewed(it) }
String kept = reviewed.size() + " reviewed ones kept (" + reviewed.count { it.isLocked() } + " locked)" +
    (outlinesTold || ours.isEmpty() ? "" : "; no prediction in the image had its measurements, so that nobody can " +
    "tell which were changed, and all were kept")
// ---- End of what is the same
// ---- Suggested: the same in import_predictions and clear_predictions
def isSuggestion = {
    isFromSuggestion(it) && !it.isLocked() && has(it, "Suggestion rank") && it.getPathClass()?.toString() == "Region*"
}
// ---- End of what is the same

// Suggested regions take the place of earlier ones, and of nothing else.
if (new File(predictions, "suggestions.csv").isFile()) {
    def earlier = getAnnotationObjects().findAll { isSuggestion(it) }
    def keptIds = (getAnnotationObjects() - earlier).collect { it.getID() } as Set
    def suggested = added.findAll { !keptIds.contains(it.getID()) }
    removeObjects(earlier, true)
    addObjects(suggested)
    fireHierarchyUpdate()
    println getCurrentImageName() + ": " + suggested.size() + " suggested regions added, " + earlier.size() +
        " of earlier runs removed"
    return
}

// ---- Cutting: the same in import_predictions, run_dmmn and dmmn
// New outlines are cut by the reviewed ones, so that nothing lies doubled.
def cutters = reviewed.findAll { it.hasROI() && it.getROI().isArea() }
def isNear = { a, b ->   // on one plane, and their bounding boxes meet
    a.getZ() == b.getZ() && a.getT() == b.getT() &&
        a.getBoundsX() < b.getBoundsX() + b.getBoundsWidth() && b.getBoundsX() < a.getBoundsX() + a.getBoundsWidth() &&
        a.getBoundsY() < b.getBoundsY() + b.getBoundsHeight() && b.getBoundsY() < a.getBoundsY() + a.getBoundsHeight()
}
def parts = { geometry -> (0..<geometry.getNumGeometries()).collect { geometry.getGeometryN(it) } }
// Not a sliver, such as lies between outlines that nearly agree; px
def isLarge = { it.getArea() >= 4 && it.getArea() >= 0.1 * it.getLength() }
def renew = { object, geometry ->   // an id of ours made of the old one and the outline: equal cuts get equal ids
    def content = object.getID().toString() + geometry.norm().toText()
    def digest = UUID.nameUUIDFromBytes(content.getBytes("UTF-8")).toString()
    def second = digest.substring(9, 13) in ["0000", "0002"] ? "0001" : digest.substring(9, 13)   // tissue, suggestions
    object.setID(UUID.fromString("d1337b0f-" + second + "-5" + digest.substring(15)))
}
def setOutline = { object, before, after ->
    def old = object.getMeasurementList()
    def code = has(object, "Predicted class code") ? old.get("Predicted class code") : null
    // um/px
    def scale = has(object, "Area \u00b5m^2") ? Math.sqrt(old.get("Area \u00b5m^2") / before.getArea()) : null
    object.setROI(GeometryTools.geometryToROI(after, object.getROI().getImagePlane()))   // empties the measurements
    def measurements = object.getMeasurementList()
    if (scale != null) {
        measurements.put("Area \u00b5m^2", after.getArea() * scale * scale)
        measurements.put("Area mm^2", after.getArea() * scale * scale * 1e-6d)
        measurements.put("Perimeter \u00b5m", after.getLength() * scale)
    }
    if (code != null)
        measurements.put("Predicted class code", code)
}
def cut = { object ->   // whether anything of it is left
    def roi = object.getROI()
    def near = cutters.findAll { isNear(it.getROI(), roi) }
    if (near.isEmpty())
        return true
    try {
        def before = roi.getGeometry()
        def covered = near.collect { it.getROI().getGeometry() }.inject { a, b -> a.union(b) }
        def overlap = before.intersection(covered)
        if (!parts(overlap).any { isLarge(it) })
            return overlap.getArea() < before.getArea() / 2   // a small one is all sliver
        def left = parts(before.difference(covered)).findAll { isLarge(it) || it.distance(covered) > 0.1 }
        if (!left.isEmpty()) {
            def after = before.getFactory().buildGeometry(left)
            renew(object, after)
            setOutline(object, before, after)
        }
        return !left.isEmpty()
    } catch (RuntimeException error) {
        throw new IllegalStateException("prediction " + object.getID() + " cannot be cut by the reviewed ones that " +
            "it overlaps (" + error.getMessage() + "); look there for an outline that crosses itself. Nothing changed")
    }
}
// What a person left of an object, or moved elsewhere, stands for all of it: its prediction does not come again.
def removed = unchecked as Set
def stayingIds = [*getAnnotationObjects(), *getDetectionObjects()].findAll { !removed.contains(it) }
    .collect { it.getID() } as Set
added = added.findAll { !stayingIds.contains(it.getID()) && cut(it) }
// ---- End of what is the same

removeObjects(unchecked, true)
addObjects(added)
if (resolve)
    resolveHierarchy()
fireHierarchyUpdate()
println getCurrentImageName() + ": " + added.size() + " added, " + unchecked.size() + " of earlier runs removed, " +
    kept
