"""Files made of predictions."""
