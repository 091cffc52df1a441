"""dmmn-qp: from a pathologist's partial annotations in QuPath to a trained segmentation model and back."""

__version__ = "0.1.0"
