package javafx.scene.layout

/** Stands in for JavaFX's class of this name. */
enum Priority { ALWAYS, NEVER }
