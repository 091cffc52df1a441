"""What several stages do together: where the work stands, whole rounds of the loop, predicting before suggesting."""
