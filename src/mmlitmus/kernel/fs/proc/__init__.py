"""The text of /proc."""
