/*
 * Writes the annotations of an image for dmmn-qp, where the project itself cannot be read.
 *
 * Makes <folder>/<image name without extension>.geojson, a FeatureCollection of all annotations of the image, and
 * overwrites a file of that name. Then: dmmn-qp import slides/ --annotations geojson/
 *
 * The folder is the script's argument, else the variable below, else "geojson" in the project's folder.
 *
 * Meant for QuPath 0.5, 0.6 and 0.7, from the script editor (Run, Run for project) or with `QuPath script`.
 * Licence: Apache-2.0.
 */
import static qupath.lib.scripting.QP.*

String folder = ""

String target = args ? args[0] : folder
if (!target && getProject() == null)
    throw new IllegalArgumentException("no project is open; write the folder for the files into this script")
File exports = new File(target ?: buildFilePath(PROJECT_BASE_DIR, "geojson"))

String image = getCurrentImageNameWithoutExtension()
if (image == null)
    throw new IllegalStateException("no image is open")
def annotations = getAnnotationObjects()
if (annotations.isEmpty()) {
    println image + ": no annotations, no file written"
    return
}
mkdirs(exports.getPath())
File file = new File(exports, image + ".geojson")
exportObjectsToGeoJson(annotations, file.getPath(), "FEATURE_COLLECTION")
println image + ": " + annotations.size() + " annotations written to " + file
