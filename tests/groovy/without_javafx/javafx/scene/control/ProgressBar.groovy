package javafx.scene.control

import javafx.scene.Node

/** Stands in for JavaFX's class of this name. */
class ProgressBar extends Node {
    double progress
    ProgressBar(double progress) { this.progress = progress }
}
