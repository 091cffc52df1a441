"""`dmmn-qp import`."""
