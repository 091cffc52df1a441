"""Reports: what a stage found, as figures to read by program and as a page to look at."""
