// Runs our scripts on stand-ins for QuPath: cases from a JSON file in, what became of them to another one.
// Arguments: the file of cases, the file to write.

import groovy.json.JsonOutput
import groovy.json.JsonSlurper
import org.codehaus.groovy.runtime.InvokerHelper
import qupath.lib.roi.Outline
import qupath.lib.scripting.QP

def compiled = [:].withDefault { new GroovyClassLoader(getClass().getClassLoader()).parseClass(new File(it)) }
def image = { told ->
    def server = new QP.Server(uri: new URI(told.uri), mpp: told.mpp)
    (told.wrappers ?: []).each { name ->
        server = QP.declaredClasses.find { it.simpleName == name }.newInstance(uri: server.uri, mpp: told.mpp, inner: server)
    }
    def made = new QP.Image(server: server)
    made.objects = (told.objects ?: []).collect { QP.object(it) }
    made
}

def results = new JsonSlurper().parse(new File(args[0])).collect { told ->
    QP.version = told.version
    Outline.turns = told.turns ?: 0
    def images = told.images.collect(image)
    QP.image = images ? images[0] : null
    QP.resolved = false
    QP.updates = 0
    QP.project = told.folder == null ? null : new QP.TheProject(
        folder: told.folder,
        imageList: [images, told.images].transpose().collect { made, known ->
            new QP.Entry(imageName: known.name ?: new File(made.server.uri).name, image: made)
        },
        pathClasses: (told.classes ?: []).collect { new QP.TissueClass(name: it[0], color: it[1]) },
    )
    def binding = told.args == null ? new Binding() : new Binding([args: told.args as String[]])
    def text = new StringWriter()
    binding.setVariable("out", new PrintWriter(text, true))
    String error = null
    try {
        (told.times ?: 1).times {
            InvokerHelper.createScript(compiled[told.script], binding).run()
        }
    } catch (Throwable thrown) {
        error = thrown.getClass().getSimpleName() + ": " + thrown.getMessage()
    }
    [text: text.toString(), error: error, resolved: QP.resolved, updates: QP.updates,
        objects: images.collect { it.objects*.feature }]
}
new File(args[1]).text = JsonOutput.toJson(results)
