"""kernel/findings.py declares exactly what the package can report and reach."""

import ast
import importlib
from pathlib import Path

import mmlitmus
from mmlitmus.explore import findings as engine
from mmlitmus.kernel import findings
from mmlitmus.report import names

HOME = Path(mmlitmus.__file__).parent
DOCS = HOME.parents[1] / "docs"
#: what makes no findings of its own: a case's names are the case's
APART = ("cases", "claims", "cli", "conform", "lab", "report", "scale", "guptable")

#: who reports: the kind, or the argument that says it, and the argument that is the name
REPORTERS = {
    "report": (0, 1), "Finding": (0, 1), "bug": ("BUG", 0), "BUG_ON": ("BUG", 1), "WARN_ON": ("WARN", 1),
    "printk": ("printk", 1), "_print": ("printk", 1), "_memtype_free": ("printk", 4), "_free_and_print": ("printk", 4),
    "require": ("invariant", 1), "store": ("invariant", 3), "reached": ("mark", 0), "_unlocked": ("precondition", None),
}  # fmt: skip

#: names that no literal says, where they are put together; what they look like is declared by hand
COMPUTED = {
    ("api.py", "BUG_ON"), ("api.py", "WARN_ON"), ("checker/checkpoint.py", "_loaded_results"),
    ("explore/audit.py", "_undeclared"),  # an audit of the model, which no row ever shows
    ("explore/findings.py", "bug"), ("explore/findings.py", "report"), ("explore/state.py", "store"),
    ("invariants/memtype.py", "memtypes_now"), ("invariants/revocation.py", "revoked_now"),
    ("kernel/arch/x86/pat.py", "_free_and_print"), ("kernel/arch/x86/pat.py", "_memtype_free"),
    ("kernel/arch/x86/pat.py", "_print"), ("kernel/arch/x86/pat.py", "printk"),
    ("kernel/machine.py", "reached"), ("kernel/machine.py", "require"),
    ("explore/livelock.py", "finding"), ("explore/lockdep.py", "close"), ("explore/scheduler.py", "_deadlock"),
}  # fmt: skip
#: ... and what they make
MADE = {
    ("deadlock", "deadlock {}"), ("inversion", "inversion {}"), ("livelock", "hard livelock of {}"),
    ("livelock", "fair livelock of {}"), ("unfair-loop", "unfair-only loop of {}"),
    ("not-modelled", "not modelled: {}"),
}  # fmt: skip


def said(node, module):
    """The strings that an argument may be, ``{}`` for what is filled in; None for what is neither a literal nor a
    constant of its module."""
    if isinstance(node, ast.Constant):
        return [node.value]
    if isinstance(node, ast.IfExp):
        return said(node.body, module) + said(node.orelse, module)
    if isinstance(node, ast.Name) and isinstance(getattr(module, node.id, None), str):
        return [getattr(module, node.id)]
    if isinstance(node, ast.JoinedStr):
        texts = [""]
        for part in node.values:
            inner = [part.value] if isinstance(part, ast.Constant) else said(part.value, module)
            texts = [t + (i if i is not None else "{}") for t in texts for i in inner]
        return texts
    return [None]


def calls(tree):
    """(function it is in, call), for every call."""
    def walk(node, inside):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef):
                yield from walk(child, child.name)
                continue
            if isinstance(child, ast.Call):
                yield inside, child
            yield from walk(child, inside)
    return walk(tree, "")


def reported():
    """Every (kind, name) in the sources, and where none can be read off."""
    found, unread = set(MADE), set()
    for path in sorted(HOME.rglob("*.py")):
        where = path.relative_to(HOME)
        if where.parts[0] in APART or where.name in ("__main__.py", "__init__.py"):
            continue
        module = importlib.import_module(".".join(("mmlitmus", *where.with_suffix("").parts)))
        for inside, call in calls(ast.parse(path.read_text(encoding="utf-8"))):
            name = call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")
            kind, at = REPORTERS.get(name, (None, None))
            if at is None or len(call.args) <= at:
                continue
            kinds = said(call.args[kind], module) if isinstance(kind, int) else [kind]
            for text in said(call.args[at], module):
                if text == "":
                    continue
                if text is None or None in kinds:
                    unread.add((where.as_posix(), inside))
                else:
                    found |= {(one, text) for one in kinds}
    return found, unread


def _stands_for(kind, name):
    """The name, where it is one of those that a declared pattern stands for."""
    return {(kind, name) for one in findings.FINDINGS if one.kind == kind and one.name != name and one.matches(name)
            and "{}" not in name}


def blank(name):
    return "{}".join(findings.re.split(r"\{[^{}]*\}", name))


def test_what_is_declared_is_what_can_be_reported():
    found, unread = reported()
    told = {(one.kind, blank(one.name)) for one in findings.FINDINGS}
    found -= {("precondition", "{} {} without {}"), ("not-modelled", "{}{}")}  # read or written; see MADE
    told -= {("precondition", "{} read without {}"), ("precondition", "{} written without {}")}
    here = {(kind, name) for kind, name in found if kind != "mark" and (kind, name) not in _stands_for(kind, name)}
    missing, stale = sorted(here - told), sorted(told - here)
    assert not missing, (
        f"reported, but not declared: {missing}. Add a line `Name(KIND, NAME, SENTENCE)` to FINDINGS in "
        "src/mmlitmus/kernel/findings.py, and run `python -m mmlitmus.report.names > docs/names.md`."
    )
    assert not stale, f"in src/mmlitmus/kernel/findings.py, and nothing reports it: {stale}. Take the line out."
    assert unread <= COMPUTED, (
        f"a name that no literal says, in {sorted(unread - COMPUTED)}: say it literally, or declare it by hand and add "
        "the function to COMPUTED in this test."
    )


def test_what_is_declared_is_what_can_be_reached():
    found = {text for kind, text in reported()[0] if kind == "mark"} - {"{} {}"}
    told = {blank(mark) for mark in findings.MARKS} - {"{} gave up", "{} got SIGBUS", "{} got SIGSEGV"}
    assert found == told, (
        "MARKS in src/mmlitmus/kernel/findings.py are to be what reached(...) says in the package; then run "
        f"`python -m mmlitmus.report.names > docs/names.md`. Not declared: {sorted(found - told)}; stale: "
        f"{sorted(told - found)}"
    )


def test_each_name_is_there_once_and_of_a_kind_that_is_told():
    pairs = [(one.kind, one.name) for one in findings.FINDINGS]
    assert len(set(pairs)) == len(pairs)
    assert len(set(findings.MARKS)) == len(findings.MARKS)
    assert {one.kind for one in findings.FINDINGS} == set(findings.KINDS) == set(engine.KINDS), (
        "a kind belongs into KINDS of src/mmlitmus/explore/findings.py and of src/mmlitmus/kernel/findings.py, with "
        "one sentence, and whether a kernel complains of it by itself"
    )
    assert all(one.says and not one.says.endswith(".") for one in findings.FINDINGS)


def test_the_page_is_made_of_the_declarations():
    assert (DOCS / "names.md").read_text() == names.document(), "run python -m mmlitmus.report.names > docs/names.md"


def test_patterns():
    assert findings.known("race on vm_flags").kind == "race"
    assert findings.known("use-after-free VmArea").name == "use-after-free {class}"
    assert findings.known("stale-translatoin") is None
    assert findings.known("deadlock") is None
