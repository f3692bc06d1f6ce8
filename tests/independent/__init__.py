"""A second opinion on the primitives: an enumerator that shares no code with mmlitmus.explore.

Nothing here imports mmlitmus at all (``test_imports.py`` holds it so). What is compared with the engines, and how, is
in tests/explore/test_independent.py.
"""
