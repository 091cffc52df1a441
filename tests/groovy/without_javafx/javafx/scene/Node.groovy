package javafx.scene

/** Stands in for JavaFX's class of this name. */
class Node {
    String id
    boolean disable
    double maxWidth
    List<Node> children = []
    boolean isDisabled() { disable }
    Node lookup(String selector) {
        "#" + id == selector ? this : children.findResult { it.lookup(selector) }
    }
}
