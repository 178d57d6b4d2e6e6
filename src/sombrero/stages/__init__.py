"""What the pipeline does at each step, between one record and the next."""
