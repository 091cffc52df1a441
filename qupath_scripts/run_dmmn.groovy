/*
 * Predicts the open image with dmmn-qp and shows the result. What dmmn-qp says appears in the script editor's log.
 *
 * Where annotations are selected, only what lies in them is predicted. The new prediction takes the place of earlier
 * ones in the image, also outside a selected region. Objects drawn in QuPath stay, and so do predictions that are
 * locked. Files: <project>/predictions, or <project>/predictions/roi for a selected region.
 *
 * Arguments: the model's folder, and "dmmn-qp" of another place as "program=/path/to/dmmn-qp".
 *
 * For QuPath 0.4 to 0.7, from the script editor (Run, Run for project) or with `QuPath script`.
 * Licence: Apache-2.0.
 */
import static qupath.lib.scripting.QP.*

import qupath.lib.io.GsonTools
import qupath.lib.io.PathIO

String program = "dmmn-qp"   // where it is not found: the full path, as `which dmmn-qp` (Windows: `where`) prints it
String model = ""            // empty: the newest in "models" beside project.qpproj
def more = []                // more options, such as ["--device", "cuda"]

def given = []
try { given = (args ?: []) as List } catch (MissingPropertyException ignored) { }  // the script editor may give none
program = given.find { it.startsWith("program=") }?.substring("program=".length()) ?: program
model = given.find { !it.startsWith("program=") } ?: model
if (getProject() == null || getCurrentImageData() == null)
    throw new IllegalStateException("open a project and an image first")

def server = getCurrentServer()
def uris = server.getURIs() as List
if (uris.isEmpty() || uris[0].getScheme() != "file")
    throw new IllegalStateException("the open image is no file on this computer")
if (server.getClass().getSimpleName() in ["RotatedImageServer", "CroppedImageServer"])
    throw new IllegalStateException("the image is turned or cropped in the project, which dmmn-qp knows only from the " +
        "project: use `dmmn-qp import`, then `dmmn-qp predict` with the slide's name")
def slide = new File(uris[0])
def home = new File(buildFilePath(PROJECT_BASE_DIR))
def region = getSelectedObjects().findAll { it.isAnnotation() && it.hasROI() && it.getROI().isArea() }
def out = region.isEmpty() ? new File(home, "predictions") : new File(new File(home, "predictions"), "roi")

def command = [program, "predict", slide.getPath(), "--out", out.getPath(), "--overwrite", *more]
if (model)
    command += ["--model", model]
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
def gson = GsonTools.getInstance()
def told = gson.fromJson(new File(out, "run.json").getText("UTF-8"), Map)
String name = told["slides"][0]
def input = (told["inputs"] ?: [:])[name]
if (input != null && ((input["width"] as int) != server.getWidth() || (input["height"] as int) != server.getHeight()))
    throw new IllegalStateException("QuPath shows " + server.getWidth() + " x " + server.getHeight() + " px, but " +
        "predicted were " + input["width"] + " x " + input["height"] + " px. Nothing changed")
def file = [".geojson", ".geojson.gz"].collect { new File(out, name + it) }.find { it.isFile() }
if (file == null)
    throw new IllegalStateException("dmmn-qp wrote no " + name + ".geojson into " + out)
def added = PathIO.readObjects(file)
def newIds = added.collect { it.getID() } as Set

// Ours are known by their ids, which every QuPath from 0.4 on keeps, and by their metadata, which 0.4 loses.
def isMarked = { it.getID().version() == 5 && it.getID().toString().startsWith("d1337b0f") }
def hasMetadata = {
    it.metaClass.respondsTo(it, "getMetadata") ? it.getMetadata().containsKey("dmmn_qp")
        : it.isAnnotation() && gson.toJson(it).contains('"dmmn_qp":')
}
def ours = [*getAnnotationObjects(), *getDetectionObjects()]
    .findAll { newIds.contains(it.getID()) || isMarked(it) || hasMetadata(it) }
def lockedIds = ours.findAll { it.isLocked() }.collect { it.getID() } as Set
def removed = ours.findAll { !it.isLocked() }
added = added.findAll { !lockedIds.contains(it.getID()) }

removeObjects(removed, true)
addObjects(added)
fireHierarchyUpdate()
println getCurrentImageName() + ": " + added.size() + " added, " + removed.size() + " of earlier runs removed, " +
    lockedIds.size() + " locked and kept. File > Save keeps them"
