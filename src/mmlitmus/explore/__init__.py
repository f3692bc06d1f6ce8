"""The search: primitives, declared state, scheduler, and the explorers over them. It knows nothing of memory."""
