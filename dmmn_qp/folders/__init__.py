"""Our folders on disk: datasets, models, predictions; stages meet through them."""
