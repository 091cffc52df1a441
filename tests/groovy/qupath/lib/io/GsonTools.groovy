package qupath.lib.io

import groovy.json.JsonOutput
import groovy.json.JsonSlurper

/** Stands in for QuPath's class of this name. */
class GsonTools {
    static Gson getInstance() { new Gson() }

    static class Gson {
        String toJson(object) { JsonOutput.toJson(object instanceof Map ? object : object.feature) }
        Object fromJson(String text, Class type) { new JsonSlurper().parseText(text).asType(type) }
    }
}
