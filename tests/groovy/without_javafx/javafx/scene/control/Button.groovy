package javafx.scene.control

/** Stands in for JavaFX's class of this name. */
class Button extends Label {
    Closure onAction
    Tooltip tooltip
    Button(String text) { super(text) }
    void fire() {
        if (!disabled)
            onAction.call(null)
    }
}
