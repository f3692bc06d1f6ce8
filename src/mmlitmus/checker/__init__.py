"""Cases: what they are, where they come from, how one is run on one kernel, and how many are."""
