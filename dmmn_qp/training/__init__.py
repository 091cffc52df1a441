"""`dmmn-qp train`."""
