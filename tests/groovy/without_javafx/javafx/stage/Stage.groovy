package javafx.stage

import javafx.scene.Scene

/** Stands in for JavaFX's class of this name. */
class Stage {
    private final Map properties = [:]
    Stage owner
    String title
    Scene scene
    Closure onHidden
    boolean showing
    int raised
    Map getProperties() { properties }
    void initOwner(Stage owner) { this.owner = owner }
    void show() { showing = true }
    void toFront() { raised++ }
    void hide() {
        showing = false
        onHidden?.call(null)
    }
}
