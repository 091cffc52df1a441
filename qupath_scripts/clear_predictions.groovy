/*
 * Removes the predictions and suggested regions of dmmn-qp from an image. Objects drawn in QuPath stay, and so does
 * what was reviewed: what is locked (right-click > Lock), has another class than was predicted, or another outline. The
 * argument "all" removes reviewed predictions too ("locked" is an older word for it).
 *
 * For QuPath 0.4 to 0.7, from the script editor (Run, Run for project) or with `QuPath script`.
 * Licence: Apache-2.0.
 */
import static qupath.lib.scripting.QP.*

import java.util.zip.CRC32

import qupath.lib.io.GsonTools

boolean all = false   // true: remove reviewed predictions too

def given = []
try { given = (args ?: []) as List } catch (MissingPropertyException ignored) { }  // the script editor may give none
all |= given.contains("all") || given.contains("locked")
if (getCurrentImageData() == null)
    throw new IllegalStateException("no image is open")

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

def removed = all ? ours : unchecked
def tissue = getAnnotationObjects().findAll { isTissue(it) && (all || !it.isLocked()) }
def suggested = getAnnotationObjects().findAll { isSuggestion(it) }
removeObjects([*removed, *tissue, *suggested], true)
fireHierarchyUpdate()
println getCurrentImageName() + ": " + removed.size() + " predictions removed, " +
    (all ? "reviewed ones too" : kept) + (tissue.isEmpty() ? "" : "; the tissue's outline removed") +
    (suggested.isEmpty() ? "" : "; " + suggested.size() + " suggested regions removed")
