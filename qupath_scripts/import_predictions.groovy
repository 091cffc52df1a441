/*
 * Shows the predictions of dmmn-qp in QuPath.
 *
 * Reads <folder>/<image name without extension>.geojson (or .geojson.gz), removes what an earlier import of
 * dmmn-qp left in the image, and adds the new objects. Objects drawn in QuPath stay. A prediction that you
 * corrected stays too if it is locked (right-click > Lock).
 *
 * The folder is the script's argument, else the variable below, else "predictions" in the project's folder.
 *
 * Meant for QuPath 0.5, 0.6 and 0.7, from the script editor (Run, Run for project) or with `QuPath script`.
 * Licence: Apache-2.0.
 */
import static qupath.lib.scripting.QP.*

import qupath.lib.io.GsonTools
import qupath.lib.io.PathIO

String folder = ""

String source = args ? args[0] : folder
if (!source && getProject() == null)
    throw new IllegalArgumentException("no project is open; write the predictions' folder into this script")
File predictions = new File(source ?: buildFilePath(PROJECT_BASE_DIR, "predictions"))

String image = getCurrentImageNameWithoutExtension()
if (image == null)
    throw new IllegalStateException("no image is open")
File file = [".geojson", ".geojson.gz"].collect { new File(predictions, image + it) }.find { it.isFile() }
if (file == null) {
    println image + ": no " + image + ".geojson in " + predictions + "; nothing changed"
    return
}

// Read before removing: a file that QuPath refuses then changes nothing.
def added = PathIO.readObjects(file)
def addedIds = added.collect { it.getID() } as Set

// QuPath 0.5 keeps an object's metadata but shows it in GeoJSON only, so the mark is looked for there.
def gson = GsonTools.getInstance()
def isOurs = { addedIds.contains(it.getID()) || gson.toJson(it).contains('"dmmn_qp":') }
def ours = [*getAnnotationObjects(), *getDetectionObjects()].findAll(isOurs)
def kept = ours.findAll { it.isLocked() }
def removed = ours.findAll { !it.isLocked() }
def keptIds = kept.collect { it.getID() } as Set
added = added.findAll { !keptIds.contains(it.getID()) }

removeObjects(removed, true)
addObjects(added)
resolveHierarchy()
fireHierarchyUpdate()
println image + ": " + removed.size() + " removed, " + kept.size() + " locked and kept, " + added.size() + " added"
