package qupath.lib.io

import groovy.json.JsonSlurper
import java.util.zip.GZIPInputStream
import qupath.lib.scripting.QP

/** Stands in for QuPath's class of this name; refuses a whole file, as QuPath does. */
class PathIO {
    static List readObjects(File file) {
        def stream = file.newInputStream()
        def features = new JsonSlurper().parse(file.name.endsWith(".gz") ? new GZIPInputStream(stream) : stream).features
        if (features.any { it.geometry == null })
            throw new IOException("a feature without geometry")
        features.collect { QP.object(it) }
    }
}
