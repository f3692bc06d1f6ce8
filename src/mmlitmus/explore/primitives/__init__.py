"""The synchronisation primitives, one file each.

Each keeps its whole state in ``state``, an immutable value, so that the explorer can remember what it was before any
event and ask ``enabled(state, op, task)`` of the past. ``waits_for(op, task)`` names the tasks it waits for.
"""
