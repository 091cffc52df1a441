// Opens our window on stand-ins for QuPath, and uses it as a person would: cases from a JSON file in, what became of
// them to another one. With JavaFX on the class path the window is a real one; else it stands in for one.
// Arguments: the file of cases, the file to write.

import groovy.json.JsonOutput
import groovy.json.JsonSlurper
import java.awt.image.BufferedImage
import java.util.concurrent.CountDownLatch
import java.util.concurrent.TimeUnit
import javax.imageio.ImageIO
import javafx.application.Platform
import javafx.stage.Stage
import org.codehaus.groovy.runtime.InvokerHelper
import qupath.lib.gui.QuPathGUI
import qupath.lib.scripting.QP

def inFx = { Closure work ->
    def latch = new CountDownLatch(1)
    def result = null
    Platform.runLater {
        try { result = work() } catch (Throwable error) { error.printStackTrace() } finally { latch.countDown() }
    }
    assert latch.await(20, TimeUnit.SECONDS) : "JavaFX's thread is blocked"
    result
}
def until = { String what, Closure isSo ->
    long end = System.currentTimeMillis() + 60000
    while (!inFx(isSo)) {
        if (System.currentTimeMillis() > end)
            throw new IllegalStateException("it never came to this: " + what)
        Thread.sleep(20)
    }
}
def compiled = [:].withDefault { new GroovyClassLoader(getClass().getClassLoader()).parseClass(new File(it)) }
Platform.startup { }
Platform.setImplicitExit(false)   // QuPath's own window would be open

def results = new JsonSlurper().parse(new File(args[0])).collect { told ->
    QP.version = told.version
    def images = told.images.collect { known ->
        def server = new QP.Server(uri: new URI(known.uri), mpp: known.mpp)
        if (known.width)
            server.with { width = known.width; height = known.height }
        new QP.Image(server: server, objects: (known.objects ?: []).collect { QP.object(it) })
    }
    QP.image = images[0]
    QP.updates = 0
    QP.project = new QP.TheProject(folder: told.folder, imageList: [images, told.images].transpose().collect { made, known ->
        new QP.Entry(imageName: new File(made.server.uri).name, image: made, id: known.id)
    })
    def gui = new QuPathGUI(stage: inFx { new Stage() })
    QuPathGUI.instance = gui
    def window = { gui.stage.getProperties()["dmmn_qp window"] }
    def open = { InvokerHelper.createScript(compiled[told.script], new Binding([args: told.args as String[]])).run() }
    def node = { id -> window().getScene().lookup("#" + id) }
    def idle = { until("idle") { node("cancel").isDisabled() } }
    String error = null
    def seen = [:]
    try {
        open()
        until("open") { window()?.isShowing() }
        for (step in told.steps) {
            def (what, value) = step
            switch (what) {
                case "press": inFx { node(value).fire() }; break
                case "idle": idle(); break
                case "said": until(value) { node("log").getText().contains(value) }; break
                case "doing": until(value) { node("doing").getText().contains(value) }; break
                case "select": inFx { QP.image.objects.each { it.selected = it.feature.id in value } }; break
                case "lock": inFx { QP.image.objects.find { it.feature.id == value }.setLocked(true) }; break
                case "open image": inFx { QP.image = images[value] }; break
                case "open again": open(); inFx { }; break
                case "close": inFx { window().hide() }; break
                case "note": seen[value] = inFx { images.collect { it.objects*.feature.collect { it.id } } }; break
                case "picture": picture(inFx, window(), value); break
                default: throw new IllegalArgumentException(what)
            }
        }
    } catch (Throwable thrown) {
        error = thrown.toString()
    }
    def outcome = inFx { [
        error: error, log: node("log").getText(), about: node("about").getText(), seen: seen, updates: QP.updates,
        objects: images.collect { it.objects*.feature }, saved: QP.project.imageList*.saved, synced: QP.project.saved,
        selected: QP.image.objects.findAll { it.selected }*.feature*.id,
        viewer: gui.viewer.with { [x, y, downsample] }, disabled: ["predict", "suggest", "train", "cancel"].findAll {
            node(it).isDisabled() },
    ] }
    inFx { if (window().isShowing()) window().hide() }
    outcome
}
new File(args[1]).text = JsonOutput.toJson(results)
System.exit(0)

/** Draws a real window into a PNG. */
void picture(Closure inFx, window, String path) {
    Thread.sleep(500)
    def image = inFx {
        def shown = window.getScene().snapshot(null)
        def made = new BufferedImage((int) shown.getWidth(), (int) shown.getHeight(), BufferedImage.TYPE_INT_RGB)
        def reader = shown.getPixelReader()
        for (int y = 0; y < made.height; y++)
            for (int x = 0; x < made.width; x++)
                made.setRGB(x, y, reader.getArgb(x, y))
        made
    }
    ImageIO.write(image, "PNG", new File(path))
}
