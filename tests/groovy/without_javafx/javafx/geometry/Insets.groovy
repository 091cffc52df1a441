package javafx.geometry

/** Stands in for JavaFX's class of this name. */
class Insets {
    Insets(double all) { }
}
