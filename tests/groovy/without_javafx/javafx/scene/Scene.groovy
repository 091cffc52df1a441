package javafx.scene

/** Stands in for JavaFX's class of this name. */
class Scene {
    final Node root
    Scene(Node root, double width, double height) { this.root = root }
    Node lookup(String selector) { root.lookup(selector) }
}
