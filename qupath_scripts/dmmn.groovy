/*
 * A window for working with dmmn-qp: predict, correct, retrain, without leaving QuPath. It stays open beside QuPath.
 *
 *   Predict here          what lies in the selected annotations, or all of the open image
 *   Undo last prediction  puts back what the last prediction of the open image replaced
 *   Accept selected       locks what is selected: it is right, and becomes a label
 *   Suggest, Next region  where annotating next pays most; goes from one of these regions to the next
 *   Import and retrain    saves the image, reads the annotations, trains from the model, and predicts again
 *
 * Behind it runs `dmmn-qp serve` with the model loaded, as long as the window is open. A prediction takes the place of
 * earlier ones in the image; objects drawn in QuPath stay, and so does what was reviewed (what that is,
 * import_predictions says). Work is saved with File > Save, and by Import and retrain.
 *
 * Arguments: the model's folder, and "dmmn-qp" of another place as "program=/path/to/dmmn-qp".
 *
 * For QuPath 0.4 to 0.7, from the script editor, with a project open. Licence: Apache-2.0.
 */
import java.util.concurrent.ConcurrentHashMap
import java.util.concurrent.Executors
import java.util.concurrent.TimeUnit
import java.util.zip.CRC32

import javafx.application.Platform
import javafx.geometry.Insets
import javafx.scene.Scene
import javafx.scene.control.Button
import javafx.scene.control.Label
import javafx.scene.control.ProgressBar
import javafx.scene.control.TextArea
import javafx.scene.control.Tooltip
import javafx.scene.layout.HBox
import javafx.scene.layout.Priority
import javafx.scene.layout.VBox
import javafx.stage.Stage

import qupath.lib.gui.QuPathGUI
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
def qupath = QuPathGUI.getInstance()
if (qupath == null)
    throw new IllegalStateException("this is a window beside QuPath's own; open it from the script editor")
def project = qupath.getProject()
if (project == null)
    throw new IllegalStateException("open a project first")
def home = project.getPath().getParent().toFile()
if (model && !new File(model).isAbsolute())
    model = new File(home, model).getPath()

/** The process behind the window: one, started when it is needed, that ends when its input does. */
class Served {
    List<String> command
    File folder
    Closure say          // takes a line
    boolean isMissing    // whether this dmmn-qp has no such process, or none could be started
    private Process process
    private Writer requests
    private int last
    private boolean isGreeted
    private final waiting = new ConcurrentHashMap<Integer, Closure>()
    private final sender = Executors.newSingleThreadExecutor { work ->
        def thread = new Thread(work, "dmmn-qp requests")
        thread.setDaemon(true)
        thread
    }

    /** Asks for something. The handler gets each reply in JavaFX's thread, or "missing" where none can come. */
    int ask(String op, Map content, Closure handler) {
        int id = ++last
        def line = GsonTools.getInstance().toJson([id: id, op: op] + content)
        sender.submit {
            try {
                waiting[id] = handler
                if (process == null || !process.isAlive())
                    start()
                requests.write(line + "\n")
                requests.flush()
            } catch (IOException error) {
                if (process == null) {
                    isMissing = true
                    tellAll("missing", "\"" + command[0] + "\" does not start (" + error.getMessage() + "); write its " +
                        "full path after \"String program =\" in the script")
                }
                tellAll("failed", "dmmn-qp cannot be reached; ask again")
            }
        }
        id
    }

    /** Ends the process, which gives up what it does, and waits for it in the background. */
    void end() {
        def ending = process
        try { requests?.close() } catch (IOException ignored) { }
        sender.shutdown()
        if (ending != null)
            Thread.startDaemon("dmmn-qp end") {
                if (!ending.waitFor(45, TimeUnit.SECONDS))
                    ending.destroyForcibly()
            }
    }

    private void start() {
        def builder = new ProcessBuilder(command.collect { it.toString() }).directory(folder)
        builder.environment().put("PYTHONIOENCODING", "utf-8")
        process = null
        isGreeted = false
        def started = builder.start()
        process = started
        requests = new OutputStreamWriter(started.getOutputStream(), "UTF-8")
        // QuPath may end without closing the window.
        Runtime.getRuntime().addShutdownHook(new Thread({ started.destroy() }))
        Thread.startDaemon("dmmn-qp messages") { started.getErrorStream().eachLine("UTF-8") { say(it) } }
        Thread.startDaemon("dmmn-qp replies") {
            try {
                started.getInputStream().eachLine("UTF-8") { hear(it) }
            } catch (IOException ignored) { }   // the process was ended
            if (process.is(started)) {
                isMissing = !isGreeted
                tellAll(isMissing ? "missing" : "failed", isMissing ? "This dmmn-qp has no `serve`; each step takes a few " +
                    "seconds more." : "dmmn-qp has ended; it is started again when it is needed.")
            }
        }
    }

    private void hear(String line) {
        def reply = [:]
        try { reply = GsonTools.getInstance().fromJson(line, Map) } catch (RuntimeException ignored) { }
        if (reply["event"] == "hello")
            isGreeted = true
        if (reply["id"] == null)
            return
        int id = (reply["id"] as double) as int
        boolean isLast = reply["event"] in ["done", "failed", "cancelled", "refused"]
        def handler = isLast ? waiting.remove(id) : waiting[id]
        if (handler != null)
            Platform.runLater { handler(reply) }
    }

    private void tellAll(String event, String text) {
        for (id in waiting.keySet().sort()) {
            def handler = waiting.remove(id)
            Platform.runLater { handler([event: event, text: text]) }
        }
    }
}

def begin = {   // in JavaFX's thread
    def opened = qupath.getStage().getProperties()["dmmn_qp window"]
    if (opened?.isShowing()) {
        opened.toFront()
        return
    }

    // ---- The window
    def about = new Label("Model: is being loaded")
    about.setId("about")
    about.setWrapText(true)
    def log = new TextArea()
    log.setId("log")
    log.setEditable(false)
    log.setWrapText(true)
    log.setPrefRowCount(12)
    def bar = new ProgressBar(0)
    bar.setMaxWidth(Double.MAX_VALUE)
    def doing = new Label("")
    doing.setId("doing")
    def say = { text -> Platform.runLater {
        log.appendText(text + "\n")
        if (log.getLength() > 60000)
            log.deleteText(0, 20000)
    } }
    def button = { String id, String text, String tip ->
        def made = new Button(text)
        made.setId(id)
        made.setMaxWidth(Double.MAX_VALUE)
        made.setTooltip(new Tooltip(tip))
        HBox.setHgrow(made, Priority.ALWAYS)
        made
    }
    def predictButton = button("predict", "Predict here", "What lies in the selected annotations, or the whole image")
    def undoButton = button("undo", "Undo last prediction", "Puts back what the last prediction replaced")
    def acceptButton = button("accept", "Accept selected", "Locks what is selected: it is right as it is")
    def suggestButton = button("suggest", "Suggest", "Where annotating next pays most")
    def nextButton = button("next", "Next region", "Goes to the next region that is not locked")
    def trainButton = button("train", "Import and retrain", "Saves the image, trains from the model, predicts again")
    def cancelButton = button("cancel", "Cancel", "Stops at the next step; what is finished is kept")
    cancelButton.setMaxWidth(-1)   // as wide as its text
    HBox.setHgrow(cancelButton, Priority.NEVER)
    def working = [predictButton, suggestButton, trainButton]

    def command = [program, "serve", project.getPath().toString(), *(model ? ["--model", model] : []), *more]
    def served = new Served(command: command, folder: home, say: say)
    def now = [job: null, plain: null]   // what runs: the id of the job, or a command
    def done = new WeakHashMap()         // image -> what its last prediction put in and took away
    def lastAreas = new WeakHashMap()    // image -> where it was predicted last; null for all of it

    def setBusy = { String text ->
        doing.setText(text ?: "")
        bar.setProgress(text ? -1 : 0)
        working.each { it.setDisable(text as boolean) }
        cancelButton.setDisable(!text)
    }
    setBusy("")
    def openImage = {   // null, said why, where there is none to work on
        def imageData = qupath.getImageData()
        if (qupath.getProject() != project)
            say("Another project is open; close this window and open it again.")
        else if (imageData == null || project.getEntry(imageData) == null)
            say("Open an image of the project first.")
        else
            return imageData
        null
    }
    def nameOf = { project.getEntry(it)?.getImageName() }

    // ---- What runs: a job of the process, or a command where there is no process
    def runPlain = { List words, Closure onDone ->
        Thread.startDaemon("dmmn-qp command") {
            int code = -1
            try {
                def builder = new ProcessBuilder([program, *words].collect { it.toString() }).directory(home)
                def process = builder.redirectErrorStream(true).start()
                process.getOutputStream().close()
                now.plain = process
                process.getInputStream().eachLine("UTF-8") { say(it) }
                code = process.waitFor()
            } catch (IOException error) {
                say(error.getMessage())
            }
            now.plain = null
            Platform.runLater {
                setBusy("")
                code == 0 ? onDone([:]) : say("dmmn-qp ended with code " + code + "; nothing changed.")
            }
        }
    }
    def run = { String text, String op, Map content, List words, Closure onDone ->
        setBusy(text)
        say(text)
        def plain = {
            if (words != null) {
                runPlain(words, onDone)
                return
            }
            setBusy("")
            say("That needs a dmmn-qp with `serve`.")
        }
        if (served.isMissing) {
            plain()
            return
        }
        now.job = served.ask(op, content) { reply ->
            switch (reply["event"]) {
                case "progress":
                    bar.setProgress(reply["total"] ? reply["done"] / reply["total"] : -1d)
                    doing.setText(text + ": " + (int) reply["done"] + " of " + (int) reply["total"] + " " +
                        reply["text"] + (reply["note"] ? ", " + reply["note"] : ""))
                    break
                case "log":
                    say(reply["text"])
                    break
                case "warning":
                    say("Warning: " + reply["text"])
                    break
                case "done":
                    setBusy("")
                    onDone(reply)
                    break
                case "missing":
                    say(reply["text"])
                    plain()
                    break
                case ["failed", "cancelled", "refused"]:
                    setBusy("")
                    say((reply["event"] == "cancelled" ? "Stopped: " : "Error: ") + reply["text"])
                    break
            }
        }
    }
    def loadModel = {
        run("Loading the model", "load", [:], null) { reply ->
            about.setText("Model: " + reply["model"] + " on " + reply["device"] + "\nClasses: " +
                reply["classes"].collect { it["name"] }.join(", "))
        }
    }

    // ---- What is done to the open image
    def frames = ["RotatedImageServer", "CroppedImageServer", "FlippedImageServer", "AffineTransformImageServer"]
    // A wrapper may lie around another one; what holds no other server ends the chain.
    def wrapped = { try { it.getWrappedServer() } catch (MissingMethodException ignored) { null } }
    def isFramed = { image ->
        def inner = image
        while (inner != null && !(inner.getClass().getSimpleName() in frames))
            inner = wrapped(inner)
        inner != null
    }

    def selected = { imageData -> imageData.getHierarchy().getSelectionModel().getSelectedObjects() as List }
    // What of new objects is to be added, and which of earlier ones they replace.
    def looked = { imageData, added ->
        def getAnnotationObjects = { imageData.getHierarchy().getAnnotationObjects() }
        def getDetectionObjects = { imageData.getHierarchy().getDetectionObjects() }
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
        [added: added, removed: unchecked, kept: kept, isReviewed: isReviewed]
    }
    def exchange = { imageData, Collection removed, Collection added ->
        def hierarchy = imageData.getHierarchy()
        hierarchy.removeObjects(removed, true)
        hierarchy.addObjects(added)
        hierarchy.fireHierarchyChangedEvent(qupath)
    }
    def ifStillOpen = { imageData, Closure work ->
        if (qupath.getImageData().is(imageData))
            work()
        else
            say("Another image is open now. Nothing changed: open " + nameOf(imageData) + " and ask again, it is done.")
    }
    def readObjects = { imageData, String path, Closure onRead ->   // in the background; a refused file changes nothing
        Thread.startDaemon("dmmn-qp objects") {
            try {
                def read = PathIO.readObjects(new File(path))
                Platform.runLater { ifStillOpen(imageData) { onRead(read) } }
            } catch (IOException | RuntimeException error) {
                say("QuPath refuses " + path + " (" + error.getMessage() + "). Nothing changed.")
            }
        }
    }
    def show = { imageData, reply ->
        def server = imageData.getServer()
        if (reply["width"] != null && ((reply["width"] as int) != server.getWidth() ||
                (reply["height"] as int) != server.getHeight())) {
            say("QuPath shows " + server.getWidth() + " x " + server.getHeight() + " px, but predicted were " +
                (reply["width"] as int) + " x " + (reply["height"] as int) + " px. Nothing changed.")
            return
        }
        readObjects(imageData, reply["polygons"]) { read ->
            try {
                def found = looked(imageData, read)
                exchange(imageData, found.removed, found.added)
                done[imageData] = found
                say(nameOf(imageData) + ": " + found.added.size() + " added, " + found.removed.size() +
                    " of earlier runs removed, " + found.kept + ". File > Save keeps them.")
            } catch (IllegalStateException error) {
                say(error.getMessage())
            }
        }
    }
    def toldBy = { File out ->   // what the command says of its prediction, where there is no process
        def told = GsonTools.getInstance().fromJson(new File(out, "run.json").getText("UTF-8"), Map)
        String stem = told["slides"][0]
        def file = [".geojson", ".geojson.gz"].collect { new File(out, stem + it) }.find { it.isFile() }
        ((told["inputs"] ?: [:])[stem] ?: [:]) + [polygons: file?.getPath()]
    }
    def predict = { imageData, List areas ->   // geometries; null for all of the image
        def server = imageData.getServer()
        def uris = server.getURIs() as List
        def calibration = server.getPixelCalibration()
        def content = [image: project.getEntry(imageData).getID()] +
            [width: server.getWidth(), height: server.getHeight()] +
            (calibration.hasPixelSizeMicrons() ? [mpp: calibration.getAveragedPixelSizeMicrons()] : [:]) +
            (areas == null ? [:] : [areas: areas])
        def out = areas == null ? new File(home, "predictions") : new File(new File(home, "predictions"), "roi")
        def words = null
        def roiFile = null
        if (served.isMissing && (uris.isEmpty() || uris[0].getScheme() != "file" || isFramed(server))) {
            say("The image is no file, or the project turns, mirrors or crops it; that needs a dmmn-qp with `serve`.")
            return
        }
        if (!uris.isEmpty() && uris[0].getScheme() == "file" && !isFramed(server)) {
            words = ["predict", new File(uris[0]).getPath(), "--out", out.getPath(), "--overwrite",
                *(model ? ["--model", model] : []), *more]
            if (areas != null) {
                roiFile = File.createTempFile("dmmn-qp-roi", ".geojson")
                roiFile.deleteOnExit()
                def features = areas.collect { [type: "Feature", properties: [objectType: "annotation"], geometry: it] }
                def collection = [type: "FeatureCollection", features: features]
                roiFile.setText(GsonTools.getInstance().toJson(collection), "UTF-8")
                words += ["--roi", roiFile.getPath()]
            }
        }
        lastAreas[imageData] = areas
        def text = "Predicting " + (areas == null ? "" : "a region of ") + nameOf(imageData)
        run(text, "predict", content, words) { reply ->
            roiFile?.delete()
            show(imageData, reply ?: toldBy(out))
        }
    }

    // ---- The buttons
    predictButton.setOnAction {
        def imageData = openImage()
        if (imageData == null)
            return
        def regions = selected(imageData).findAll { it.isAnnotation() && it.hasROI() && it.getROI().isArea() }
        def gson = GsonTools.getInstance()
        def areas = regions.collect {
            gson.fromJson(gson.toJson(it), Map)["geometry"].findAll { key, value -> key != "plane" }
        }
        predict(imageData, areas ?: null)
    }
    undoButton.setOnAction {
        def imageData = openImage()
        if (imageData == null)
            return
        def last = done.remove(imageData)
        if (last == null) {
            say("No prediction of this image was put in since the window was opened.")
            return
        }
        def hierarchy = imageData.getHierarchy()
        def there = [*hierarchy.getAnnotationObjects(), *hierarchy.getDetectionObjects()] as Set
        def (reviewed, taken) = last.added.findAll { there.contains(it) }.split { last.isReviewed(it) }
        exchange(imageData, taken, last.removed)
        say(nameOf(imageData) + ": " + taken.size() + " taken away, " + last.removed.size() + " put back, " +
            reviewed.size() + " reviewed meanwhile kept")
    }
    acceptButton.setOnAction {
        def imageData = openImage()
        def objects = imageData == null ? [] : selected(imageData).findAll { it.isAnnotation() || it.isDetection() }
        objects.each { it.setLocked(true) }
        if (imageData != null) {
            imageData.getHierarchy().fireHierarchyChangedEvent(qupath)
            say(objects.isEmpty() ? "Select what is right first." : objects.size() + " accepted (locked)")
        }
    }
    def isRegion = { it.getPathClass()?.toString() == "Region*" && !it.isLocked() }
    def isRanked = { it.hasMeasurements() && it.getMeasurementList().containsKey("Suggestion rank") }
    // Ours, and nobody made anything of it.
    def isSuggested = { isRegion(it) && isRanked(it) && it.getID().toString().startsWith("d1337b0f-0002-5") }
    def rankOf = { isRanked(it) ? it.getMeasurementList().get("Suggestion rank") : Double.MAX_VALUE }
    suggestButton.setOnAction {
        def imageData = openImage()
        if (imageData == null)
            return
        def content = [image: project.getEntry(imageData).getID(), regions: 10]
        run("Looking for regions", "suggest", content, null) { reply ->
            if (reply["polygons"] == null) {
                say("Nothing is suggested in this image.")
                return
            }
            readObjects(imageData, reply["polygons"]) { read ->
                def there = imageData.getHierarchy().getAnnotationObjects()
                def earlier = there.findAll { isSuggested(it) }
                def ids = (there - earlier).collect { it.getID() } as Set
                exchange(imageData, earlier, read.findAll { !ids.contains(it.getID()) })
                say(read.size() + " regions suggested; Next region goes through them.")
            }
        }
    }
    nextButton.setOnAction {
        def imageData = openImage()
        if (imageData == null)
            return
        def regions = imageData.getHierarchy().getAnnotationObjects().findAll { isRegion(it) }
            .sort { a, b -> rankOf(a) <=> rankOf(b) ?: a.getID() <=> b.getID() }
        if (regions.isEmpty()) {
            say("No region of the class Region* is left; Suggest makes some.")
            return
        }
        def next = regions[(regions.findIndexOf { it in selected(imageData) } + 1) % regions.size()]
        imageData.getHierarchy().getSelectionModel().setSelectedObject(next)
        def roi = next.getROI()
        def viewer = qupath.getViewer()
        viewer.setDownsampleFactor(Math.max(roi.getBoundsWidth(), roi.getBoundsHeight()) / 600d)
        viewer.setCenterPixelLocation(roi.getBoundsX() + roi.getBoundsWidth() / 2d,
            roi.getBoundsY() + roi.getBoundsHeight() / 2d)
        say("Region: " + (next.getName() ?: "without a name"))
    }
    trainButton.setOnAction {
        def imageData = openImage()
        if (imageData == null)
            return
        try {
            project.getEntry(imageData).saveImageData(imageData)   // what is on the screen is what is read
            project.syncChanges()
        } catch (IOException error) {
            say("The image cannot be saved (" + error.getMessage() + "); nothing is imported.")
            return
        }
        def file = project.getPath().toString()
        run("Reading annotations", "import", [:], ["import", file, "--overwrite"]) {
            run("Training", "train", [:], ["train", *(model ? ["--from", model] : [])]) { reply ->
                if (reply["model"])
                    say("Trained " + reply["model"] +
                        (reply["accepted"] ? "" : ", which is no better; the model of before goes on"))
                model = served.isMissing ? "" : model   // the newest
                predict(imageData, lastAreas[imageData])
            }
        }
    }
    cancelButton.setOnAction {
        say("Stopping at the next step")
        now.plain?.destroy()
        if (now.job != null && !served.isMissing)
            served.ask("cancel", [job: now.job]) { reply -> }
    }

    def row = { Object... nodes ->
        def made = new HBox(6)
        made.getChildren().addAll(nodes)
        made
    }
    def pane = new VBox(6)
    pane.setPadding(new Insets(10))
    VBox.setVgrow(log, Priority.ALWAYS)
    HBox.setHgrow(bar, Priority.ALWAYS)
    pane.getChildren().addAll(about, row(predictButton, undoButton, acceptButton),
        row(suggestButton, nextButton, trainButton), row(bar, cancelButton), doing, log)
    def stage = new Stage()
    stage.initOwner(qupath.getStage())   // not modal, and closed with QuPath
    stage.setTitle("dmmn-qp")
    stage.setScene(new Scene(pane, 480, 420))
    stage.setOnHidden { served.end(); now.plain?.destroy() }
    qupath.getStage().getProperties()["dmmn_qp window"] = stage
    stage.show()
    loadModel()
}
Platform.runLater(begin)
