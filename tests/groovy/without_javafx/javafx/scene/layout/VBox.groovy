package javafx.scene.layout

import javafx.geometry.Insets
import javafx.scene.Node

/** Stands in for JavaFX's class of this name. */
class VBox extends Node {
    Insets padding
    VBox(double spacing) { }
    static void setVgrow(Node node, Priority priority) { }
}
