"""What get_user_pages says of which mapping, by which path: every cell is a run of the model."""
