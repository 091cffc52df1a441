/*
 * Writes annotations for dmmn-qp, where the project itself cannot be read:
 *
 *   <folder>/<slide>.geojson   all annotations of an image; <slide> is its file's name without the ending
 *   <folder>/pixel_sizes.csv   um/px of the slides, as QuPath shows them
 *   <folder>/classes.csv       the project's classes in their order, and their colours
 *
 * Files of these names are replaced. Then, which reads the tables too:
 *   dmmn-qp import slides/ --annotations <folder>
 *
 * Arguments, in any order: the folder, and "all" for all images of the project at once (with `QuPath script` leave
 * it out: that runs for every image anyway).
 *
 * For QuPath 0.4 to 0.7, from the script editor or with `QuPath script`. Licence: Apache-2.0.
 */
import static qupath.lib.scripting.QP.*

String folder = ""    // empty: "geojson" beside project.qpproj
boolean all = false   // true: all images of the project, as last saved; false: the open image

def given = []
try { given = (args ?: []) as List } catch (MissingPropertyException ignored) { }  // the script editor may give none
all |= given.contains("all")
folder = given.find { it != "all" } ?: folder
if ((!folder || all) && getProject() == null)
    throw new IllegalArgumentException("no project is open; write the folder for the files into this script")
if (!all && getCurrentImageData() == null)
    throw new IllegalStateException("no image is open")
// A relative folder is one of the project's.
def below = { String path ->
    new File(path).isAbsolute() || getProject() == null ? new File(path) : new File(buildFilePath(PROJECT_BASE_DIR), path)
}
def target = below(folder ?: "geojson")
mkdirs(target.getPath())

def quoted = { '"' + it.toString().replace('"', '""') + '"' }
// Entries of a project: QuPath before 0.6 has another name for it.
def urisOf = { it.metaClass.respondsTo(it, "getURIs") ? it.getURIs() : it.getServerURIs() }
def fileName = { uris -> uris.size() == 1 ? uris[0].getPath()?.tokenize("/")?.last() : null }
def nameOf = { imageData ->
    fileName(imageData.getServer().getURIs() as List) ?: imageData.getServer().getMetadata().getName()
}
def entryName = { fileName(urisOf(it) as List) ?: it.getImageName() }

def frames = ["RotatedImageServer", "CroppedImageServer", "FlippedImageServer", "AffineTransformImageServer"]
// A wrapper may lie around another one; what holds no other server ends the chain.
def wrapped = { try { it.getWrappedServer() } catch (MissingMethodException ignored) { null } }
def isFramed = { image ->
    def inner = image
    while (inner != null && !(inner.getClass().getSimpleName() in frames))
        inner = wrapped(inner)
    inner != null
}

def export = { imageData ->
    def slide = nameOf(imageData)
    if (isFramed(imageData.getServer())) {
        println slide + ": the project turns, mirrors or crops the image, so its annotations do not lie where they would " +
            "on the file; none is written. Use `dmmn-qp import project.qpproj`, which knows how the image is shown"
        return
    }
    def shown = (getProject()?.getImageList() ?: []).count { entryName(it) == slide }
    if (shown > 1) {
        println slide + ": " + shown + " images of the project have this name and would share a file; none is written"
        return
    }
    def annotations = imageData.getHierarchy().getAnnotationObjects()
    if (annotations.isEmpty()) {
        println slide + ": no annotations, no file written"
        return
    }
    def stem = slide.lastIndexOf(".") > 0 ? slide.substring(0, slide.lastIndexOf(".")) : slide
    def file = new File(target, stem + ".geojson")
    exportObjectsToGeoJson(annotations, file.getPath(), "FEATURE_COLLECTION")
    def calibration = imageData.getServer().getPixelCalibration()
    def sizes = new File(target, "pixel_sizes.csv")
    def rows = sizes.isFile() ? sizes.readLines("UTF-8").drop(1).findAll { !it.startsWith(quoted(slide) + ",") } : []
    if (calibration.hasPixelSizeMicrons())
        rows << quoted(slide) + "," + calibration.getAveragedPixelSizeMicrons()
    sizes.setText((["slide,mpp"] + rows).join("\n") + "\n", "UTF-8")
    println slide + ": " + annotations.size() + " annotations written to " + file +
        (calibration.hasPixelSizeMicrons() ? "" : "; the image has no pixel size, give it with --mpp")
}

if (all) {
    for (entry in getProject().getImageList()) {
        def isOpen = getProjectEntry() != null && entry.getID() == getProjectEntry().getID()
        def imageData = isOpen ? getCurrentImageData() : entry.readImageData()
        try {
            export(imageData)
        } finally {
            if (!isOpen)
                imageData.getServer().close()
        }
    }
} else {
    export(getCurrentImageData())
}

if (getProject() != null) {
    def classes = getProject().getPathClasses().findAll { it.toString() && it.getColor() != null }.collect {
        int rgb = it.getColor()
        [quoted(it), (rgb >> 16) & 255, (rgb >> 8) & 255, rgb & 255].join(",")
    }
    new File(target, "classes.csv").setText((["class,red,green,blue"] + classes).join("\n") + "\n", "UTF-8")
}
