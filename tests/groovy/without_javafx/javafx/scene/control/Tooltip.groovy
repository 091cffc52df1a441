package javafx.scene.control

/** Stands in for JavaFX's class of this name. */
class Tooltip {
    Tooltip(String text) { }
}
