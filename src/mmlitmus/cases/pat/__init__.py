"""Memory types: who reserves which, who gives it back, and what a page is mapped with meanwhile."""
