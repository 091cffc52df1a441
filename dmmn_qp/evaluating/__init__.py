"""`dmmn-qp evaluate`."""
