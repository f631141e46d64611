"""Tables and pages about runs, made from their workdirs alone."""
