"""What was claimed in the threads, one row a claim, with the results of cases that settle it."""
