"""What several stages do together: where the work stands, and whole rounds of the loop."""
