"""What several stages do one after the other."""
