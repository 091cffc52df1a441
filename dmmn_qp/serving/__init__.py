"""A process beside QuPath that keeps a model warm: requests and replies as lines of JSON."""
