"""Pins: what get_user_pages gets of which mapping, how long it takes, and what the process sees afterwards."""
