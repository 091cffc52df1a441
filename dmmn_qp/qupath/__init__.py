"""QuPath's files: projects, object data (``data.qpdata``) and GeoJSON, read without Java."""
