"""Tables of many predicted slides."""
