// Compiles scripts with Groovy 4; stand-ins for QuPath's classes are on the class path. Arguments: the scripts.

import org.codehaus.groovy.control.CompilationFailedException

int failed = 0
for (path in args) {
    try {
        new GroovyClassLoader(getClass().getClassLoader()).parseClass(new File(path))
    } catch (CompilationFailedException error) {
        System.err.println(error.getMessage())
        failed++
    }
}
println "Groovy " + GroovySystem.getVersion() + ": " + (args.length - failed) + " of " + args.length + " scripts compile"
System.exit(failed ? 1 : 0)
