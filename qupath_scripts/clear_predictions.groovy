/*
 * Removes the predictions of dmmn-qp from an image. Objects drawn in QuPath stay, and so do predictions that are
 * locked (right-click > Lock), unless the argument "locked" is given.
 *
 * For QuPath 0.4 to 0.7, from the script editor (Run, Run for project) or with `QuPath script`.
 * Licence: Apache-2.0.
 */
import static qupath.lib.scripting.QP.*

import qupath.lib.io.GsonTools

boolean alsoLocked = false   // true: remove locked predictions too

def given = []
try { given = (args ?: []) as List } catch (MissingPropertyException ignored) { }  // the script editor may give none
alsoLocked |= given.contains("locked")
if (getCurrentImageData() == null)
    throw new IllegalStateException("no image is open")

// Ours are known by their ids, which every QuPath from 0.4 on keeps, and by their metadata, which 0.4 loses.
def gson = GsonTools.getInstance()
def isMarked = { it.getID().version() == 5 && it.getID().toString().startsWith("d1337b0f") }
def hasMetadata = {
    it.metaClass.respondsTo(it, "getMetadata") ? it.getMetadata().containsKey("dmmn_qp")
        : it.isAnnotation() && gson.toJson(it).contains('"dmmn_qp":')
}
def ours = [*getAnnotationObjects(), *getDetectionObjects()].findAll { isMarked(it) || hasMetadata(it) }
def removed = ours.findAll { alsoLocked || !it.isLocked() }
removeObjects(removed, true)
fireHierarchyUpdate()
println getCurrentImageName() + ": " + removed.size() + " predictions removed, " + (ours.size() - removed.size()) +
    " locked and kept"
