/*
 * Shows the predictions of dmmn-qp in QuPath.
 *
 * Reads <folder>/<slide>.geojson (or .geojson.gz), removes what an earlier import of dmmn-qp left in the image, and
 * adds the new objects. Objects drawn in QuPath stay, and so do predictions that are locked (right-click > Lock).
 * <slide> is the slide's file name without its ending, or else the image's name.
 *
 * Arguments, in any order: the folder, and "resolve" to make objects children of those they lie in.
 *
 * For QuPath 0.4 to 0.7, from the script editor (Run, Run for project) or with `QuPath script`.
 * Licence: Apache-2.0.
 */
import static qupath.lib.scripting.QP.*

import qupath.lib.io.GsonTools
import qupath.lib.io.PathIO

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
def predictions = new File(folder ?: buildFilePath(PROJECT_BASE_DIR, "predictions"))

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
    println getCurrentImageName() + ": no " + names[0] + ".geojson in " + predictions + "; nothing changed"
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
def newIds = added.collect { it.getID() } as Set

// Ours are known by their ids, which every QuPath from 0.4 on keeps, and by their metadata, which 0.4 loses.
def gson = GsonTools.getInstance()
def isMarked = { it.getID().version() == 5 && it.getID().toString().startsWith("d1337b0f") }
def hasMetadata = {
    it.metaClass.respondsTo(it, "getMetadata") ? it.getMetadata().containsKey("dmmn_qp")
        : it.isAnnotation() && gson.toJson(it).contains('"dmmn_qp":')
}
def ours = [*getAnnotationObjects(), *getDetectionObjects()]
    .findAll { newIds.contains(it.getID()) || isMarked(it) || hasMetadata(it) }
def locked = ours.findAll { it.isLocked() }
def lockedIds = locked.collect { it.getID() } as Set
def removed = ours.findAll { !it.isLocked() }
added = added.findAll { !lockedIds.contains(it.getID()) }

removeObjects(removed, true)
addObjects(added)
if (resolve)
    resolveHierarchy()
fireHierarchyUpdate()
println getCurrentImageName() + ": " + added.size() + " added, " + removed.size() + " of earlier runs removed, " +
    locked.size() + " locked and kept"
