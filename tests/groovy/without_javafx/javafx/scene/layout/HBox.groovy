package javafx.scene.layout

import javafx.geometry.Insets
import javafx.scene.Node

/** Stands in for JavaFX's class of this name. */
class HBox extends Node {
    Insets padding
    HBox(double spacing) { }
    static void setHgrow(Node node, Priority priority) { }
}
