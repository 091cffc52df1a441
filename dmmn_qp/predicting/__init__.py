"""`dmmn-qp predict`."""
