package qupath.lib.gui

import javafx.stage.Stage
import qupath.lib.scripting.QP

/** Stands in for QuPath's class of this name: just the calls of our window. */
class QuPathGUI {
    static QuPathGUI instance   // null where QuPath has no window
    Stage stage
    Viewer viewer = new Viewer()
    QP.TheProject getProject() { QP.project }
    QP.Image getImageData() { QP.image }

    static class Viewer {
        double x, y, downsample
        void setCenterPixelLocation(double x, double y) { this.x = x; this.y = y }
        void setDownsampleFactor(double downsample) { this.downsample = downsample }
    }
}
