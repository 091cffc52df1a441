package javafx.scene.control

import javafx.scene.Node

/** Stands in for JavaFX's class of this name. */
class Label extends Node {
    String text
    boolean wrapText
    Label(String text) { this.text = text }
}
