/*
 * Predicts the open image with dmmn-qp and shows the result. What dmmn-qp says appears in the script editor's log.
 *
 * Where annotations are selected, only what lies in them is predicted. The new prediction takes the place of earlier
 * ones in the image, also outside a selected region. Objects drawn in QuPath stay, and so does what was reviewed (what
 * that is, import_predictions says); the new ones are cut by it.
 * Files: <project>/predictions, or <project>/predictions/roi for a selected region.
 *
 * Arguments: the model's folder, and "dmmn-qp" of another place as "program=/path/to/dmmn-qp".
 *
 * For QuPath 0.4 to 0.7, from the script editor (Run, Run for project) or with `QuPath script`.
 * Licence: Apache-2.0.
 */
import static qupath.lib.scripting.QP.*

import java.util.zip.CRC32

import qupath.lib.io.GsonTools
import qupath.lib.io.PathIO
import qupath.lib.roi.GeometryTools

String program = "dmmn-qp"   // where it is not found: the full path, as `which dmmn-qp` (Windows: `where`) prints it
String model = ""            // empty: the newest in "models" beside project.qpproj
def more = []                // more options, such as ["--device", "cuda"]

def given = []
try { given = (args ?: []) as List } catch (MissingPropertyException ignored) { }  // the script editor may give none
program = given.find { it.startsWith("program=") }?.substring("program=".length()) ?: program
model = given.find { !it.startsWith("program=") } ?: model
if (getProject() == null || getCurrentImageData() == null)
    throw new IllegalStateException("open a project and an image first")

// A relative folder is one of the project's.
def below = { String path ->
    new File(path).isAbsolute() || getProject() == null ? new File(path) : new File(buildFilePath(PROJECT_BASE_DIR), path)
}

def server = getCurrentServer()
def uris = server.getURIs() as List
if (uris.isEmpty() || uris[0].getScheme() != "file")
    throw new IllegalStateException("the open image is no file on this computer")
def frames = ["RotatedImageServer", "CroppedImageServer", "FlippedImageServer", "AffineTransformImageServer"]
// A wrapper may lie around another one; what holds no other server ends the chain.
def wrapped = { try { it.getWrappedServer() } catch (MissingMethodException ignored) { null } }
def isFramed = { image ->
    def inner = image
    while (inner != null && !(inner.getClass().getSimpleName() in frames))
        inner = wrapped(inner)
    inner != null
}
if (isFramed(server))
    throw new IllegalStateException("the image is turned, mirrored or cropped in the project, which dmmn-qp knows only " +
        "from the project: use `dmmn-qp import`, then `dmmn-qp predict` with the slide's name")
def slide = new File(uris[0])
def home = new File(buildFilePath(PROJECT_BASE_DIR))
def region = getSelectedObjects().findAll { it.isAnnotation() && it.hasROI() && it.getROI().isArea() }
def out = region.isEmpty() ? new File(home, "predictions") : new File(new File(home, "predictions"), "roi")

def command = [program, "predict", slide.getPath(), "--out", out.getPath(), "--overwrite", *more]
if (model)
    command += ["--model", below(model).getPath()]
def roiFile = null
if (!region.isEmpty()) {
    roiFile = File.createTempFile("dmmn-qp-roi", ".geojson")
    exportObjectsToGeoJson(region, roiFile.getPath(), "FEATURE_COLLECTION")
    command += ["--roi", roiFile.getPath()]
}

println command.join(" ")
def process = null
try {
    def builder = new ProcessBuilder(command.collect { it.toString() }).directory(home).redirectErrorStream(true)
    builder.environment().put("PYTHONUNBUFFERED", "1")
    builder.environment().put("PYTHONIOENCODING", "utf-8")
    try {
        process = builder.start()
    } catch (IOException error) {
        throw new IllegalStateException("\"" + program + "\" does not start (" + error.getMessage() + "); write its " +
            "full path after \"String program =\" in this script")
    }
    def log = Thread.start { process.getInputStream().eachLine("UTF-8") { println it } }
    int code = process.waitFor()   // unlike reading, waiting ends at once when the script is stopped
    log.join()
    if (code != 0)
        throw new IllegalStateException("dmmn-qp ended with code " + code + "; its message is above. Nothing changed")
} finally {
    process?.destroy()   // when the script is stopped, so is what it started
    roiFile?.delete()
}

// What was predicted must be what is shown here: the same file in the same frame.
def told = GsonTools.getInstance().fromJson(new File(out, "run.json").getText("UTF-8"), Map)
String stem = told["slides"][0]
def input = (told["inputs"] ?: [:])[stem]
if (input != null && ((input["width"] as int) != server.getWidth() || (input["height"] as int) != server.getHeight()))
    throw new IllegalStateException("QuPath shows " + server.getWidth() + " x " + server.getHeight() + " px, but " +
        "predicted were " + input["width"] + " x " + input["height"] + " px. Nothing changed")
def file = [".geojson", ".geojson.gz"].collect { new File(out, stem + it) }.find { it.isFile() }
if (file == null)
    throw new IllegalStateException("dmmn-qp wrote no " + stem + ".geojson into " + out)
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
fireHierarchyUpdate()
println getCurrentImageName() + ": " + added.size() + " added, " + unchecked.size() + " of earlier runs removed, " +
    kept + ". File > Save keeps them"
