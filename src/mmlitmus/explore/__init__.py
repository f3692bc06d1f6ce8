"""The search: primitives, declared state, scheduler, and the explorers over them. It knows nothing of memory."""

from . import compiled

#: do the hot modules run compiled?
COMPILED = compiled.use(__path__)
