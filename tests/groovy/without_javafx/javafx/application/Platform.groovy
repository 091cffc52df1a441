package javafx.application

import java.util.concurrent.Executors

/** Stands in for JavaFX's class of this name: a thread of its own, and no window. */
class Platform {
    private static Thread fx
    private static final QUEUE = Executors.newSingleThreadExecutor { work -> fx = new Thread(work); fx.daemon = true; fx }
    static void startup(Runnable work) { runLater(work) }
    static void setImplicitExit(boolean exits) { }
    static void runLater(Runnable work) {
        QUEUE.submit { try { work.run() } catch (Throwable error) { error.printStackTrace() } }
    }
    static boolean isFxApplicationThread() { Thread.currentThread().is(fx) }
}
