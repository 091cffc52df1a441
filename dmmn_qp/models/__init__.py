"""`dmmn-qp models`: what a model is, the authors' models, models for other programs."""
