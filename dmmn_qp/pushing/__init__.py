"""`dmmn-qp push`."""
