"""Label rasters -> polygons; never opens a file."""
