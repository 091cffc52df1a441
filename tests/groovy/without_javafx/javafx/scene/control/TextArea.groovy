package javafx.scene.control

/** Stands in for JavaFX's class of this name. */
class TextArea extends Label {
    boolean editable
    int prefRowCount
    TextArea() { super("") }
    void appendText(String more) { text += more }
    int getLength() { text.length() }
    void deleteText(int start, int end) { text = text.substring(0, start) + text.substring(end) }
}
