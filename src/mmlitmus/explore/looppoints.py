"""Does a ``loop_point`` name every local variable that matters from there on?

A variable *is live* at a point if on some way from there it is used before it is set. Liveness is worked out on the
syntax tree, the same for every Python. Of a ``for`` loop the position counts as well: it is known from the loop
variable and from the names in what is walked over, if that is made of local names and plain function calls
(``range(start, end)``, ``enumerate(pages)``) and not of an attribute, which may have changed meanwhile. What is walked
over must not give the same value twice.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterable, Iterator
from types import CodeType

from .scheduler import SetupError

Names = frozenset[str]
_NONE: Names = frozenset()
_NAME = "loop_point"

_checked: set[CodeType] = set()


def check_loop_points(code: CodeType) -> None:
    """SetupError if a loop_point in the function with this code leaves a live variable out."""
    if code in _checked:
        return
    try:
        lines, first = inspect.getsourcelines(code)
    except (OSError, TypeError) as e:
        raise SetupError(f"{code.co_name} has a loop_point, and its source cannot be read: {e}") from e
    tree = ast.parse(textwrap.dedent("".join(lines)))
    for wrong in missing(tree):
        raise SetupError(f"{code.co_filename}:{first + wrong[0] - 1}: {wrong[1]}")
    _checked.add(code)


def missing(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, what is wrong) of every loop_point in the functions of the tree."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and any(map(_is_loop_point, _own(node))):
            yield from Liveness(node).problems()


def _own(function: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a function, without those of functions in it."""
    for child in ast.iter_child_nodes(function):
        if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)):
            yield child
            yield from _own(child)


def _is_loop_point(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call):
        return False
    f = node.func
    return (isinstance(f, ast.Name) and f.id == _NAME) or (isinstance(f, ast.Attribute) and f.attr == _NAME)


class Liveness:
    """The live variables at the loop_points of one function."""

    def __init__(self, function: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self.function = function
        a = function.args
        self.locals = {x.arg for x in (*a.posonlyargs, *a.args, *a.kwonlyargs, a.vararg, a.kwarg) if x is not None}
        for node in _own(function):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                self.locals.add(node.id)
            elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                self.locals.add(node.name)
            elif isinstance(node, ast.Nonlocal):
                self.locals.update(node.names)
        for statement in function.body:  # functions within it are locals too
            for inner in ast.walk(statement):
                if isinstance(inner, (ast.FunctionDef, ast.AsyncFunctionDef)):
                    self.locals.add(inner.name)
        self.live: dict[ast.Call, set[str]] = {}
        self.wrong: dict[tuple[int, str], None] = {}
        self.outside: Names = _NONE  # of nonlocal variables: live after the return

    def problems(self) -> Iterator[tuple[int, str]]:
        """(line, what is wrong)."""
        nonlocals = {n for node in _own(self.function) if isinstance(node, ast.Nonlocal) for n in node.names}
        self.outside = frozenset(nonlocals)
        self._block(self.function.body, self.outside, _NONE, _NONE)
        yield from self.wrong
        for call, live in self.live.items():
            named = {a.id for a in call.args if isinstance(a, ast.Name)}
            left = sorted(live - named)
            if left:
                yield call.lineno, f"{_NAME} in {self.function.name} does not name {', '.join(left)}"

    def _uses(self, *nodes: ast.AST | None) -> Names:
        return frozenset(
            n.id
            for node in nodes
            if node is not None
            for n in ast.walk(node)
            if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load) and n.id in self.locals
        )

    @staticmethod
    def _sets(*targets: ast.AST | None) -> Names:
        """The names that are set: by an attribute or subscript, none."""
        found: set[str] = set()
        todo = [t for t in targets if t is not None]
        while todo:
            t = todo.pop()
            if isinstance(t, ast.Name):
                found.add(t.id)
            elif isinstance(t, (ast.Tuple, ast.List)):
                todo += t.elts
            elif isinstance(t, ast.Starred):
                todo.append(t.value)
        return frozenset(found)

    def _block(self, body: Iterable[ast.stmt], after: Names, on_break: Names, on_continue: Names) -> Names:
        for s in reversed(list(body)):
            after = self._statement(s, after, on_break, on_continue)
        return after

    def _statement(self, s: ast.stmt, after: Names, on_break: Names, on_continue: Names) -> Names:
        if isinstance(s, ast.Expr):
            if isinstance(s.value, ast.Call) and _is_loop_point(s.value):
                self.live.setdefault(s.value, set()).update(after)
            return after | self._uses(s.value)
        if isinstance(s, ast.Assign):
            return after - self._sets(*s.targets) | self._uses(s.value, *s.targets)
        if isinstance(s, ast.AnnAssign):
            return after - (self._sets(s.target) if s.value else _NONE) | self._uses(s.value, s.target)
        if isinstance(s, ast.AugAssign):
            return after | self._uses(s.value, s.target) | self._sets(s.target)
        if isinstance(s, (ast.Return, ast.Raise)):
            return self.outside | self._uses(s)
        if isinstance(s, ast.Break):
            return on_break
        if isinstance(s, ast.Continue):
            return on_continue
        if isinstance(s, ast.If):
            either = self._block(s.body, after, on_break, on_continue)
            return either | self._block(s.orelse, after, on_break, on_continue) | self._uses(s.test)
        if isinstance(s, ast.While):
            ends = isinstance(s.test, ast.Constant) and bool(s.test.value)
            out = _NONE if ends else self._block(s.orelse, after, on_break, on_continue)
            return self._loop(s.body, self._uses(s.test) | out, after, _NONE)
        if isinstance(s, (ast.For, ast.AsyncFor)):
            return self._for(s, after, on_break, on_continue)
        if isinstance(s, (ast.With, ast.AsyncWith)):
            inner = self._block(s.body, after, on_break, on_continue)
            sets = self._sets(*[i.optional_vars for i in s.items])
            return inner - sets | self._uses(*[i.context_expr for i in s.items])
        if isinstance(s, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            return after - {s.name} | self._uses(s)
        if isinstance(s, (ast.Pass, ast.Global, ast.Nonlocal, ast.Import, ast.ImportFrom)):
            return after
        # try, match, delete, assert: whatever they use or contain may matter
        everything = after | on_break | on_continue | self._uses(s)
        for part in ast.iter_child_nodes(s):
            if isinstance(part, ast.stmt):
                everything |= self._statement(part, everything, on_break, on_continue)
            elif isinstance(part, (ast.ExceptHandler, ast.match_case)):
                everything |= self._block(part.body, everything, on_break, on_continue)
        return everything

    def _loop(self, body: list[ast.stmt], head: Names, on_break: Names, sets: Names) -> Names:
        """What is live before the loop's test; ``head`` is what the test uses and what is live behind the loop."""
        while True:
            more = head | (self._block(body, head, on_break, head) - sets)
            if more == head:
                return head
            head = more

    def _for(self, s: ast.For | ast.AsyncFor, after: Names, on_break: Names, on_continue: Names) -> Names:
        uses, sets = self._uses(s.iter), self._sets(s.target)
        inside = any(_is_loop_point(n) for statement in s.body for n in (statement, *_own(statement)))
        position = uses | sets if inside else _NONE
        if inside and any(isinstance(n, (ast.Attribute, ast.Subscript, ast.Await)) for n in ast.walk(s.iter)):
            self.wrong[s.lineno, f"{_NAME} in a loop over {ast.unparse(s.iter)}: give it a name first"] = None
        if inside and isinstance(s.iter, ast.Name):
            self.wrong[s.lineno, f"{_NAME} in a loop over {s.iter.id}: use enumerate({s.iter.id})"] = None
        out = self._block(s.orelse, after, on_break, on_continue)
        head = self._loop(s.body, out | position, after, _NONE if inside else sets)
        return (head - sets) | uses
