"""A stranger's driver, outside the package, through the command line."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def mmlitmus(*args: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "mmlitmus.cli.main", *args]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_driver_holds_on_every_kernel():
    done = mmlitmus("check", "examples/my_driver.py", "--kernel", "all")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1].endswith(" clean, 0 with findings)")


def test_the_racy_one_does_not():
    done = mmlitmus("check", "examples/my_driver_racy.py", "--kernel", "all", "--json")
    assert (done.returncode, done.stderr) == (1, "")
    rows = json.loads(done.stdout)
    assert len(rows) > 10
    for row in rows:
        assert row["result"] == "sometimes"
        assert row["search"] == "exhaustive"
        assert [v["name"] for v in row["violations"]] == ["access-after-disable", "stale-translation"]
        for v in row["violations"]:
            assert v["schedule"].split("!")[0].strip() == "touch > my:sem.up_read; revoke"
            assert (v["preemptions"], v["minimal"]) == (1, True)


def test_its_schedule_can_be_replayed():
    here = ("examples/my_driver_racy.py", "--kernel", "v6.12")
    row = json.loads(mmlitmus("check", *here, "--json").stdout)[0]
    schedule = row["violations"][0]["schedule"]
    done = mmlitmus("replay", schedule, *here, "--finding", "stale-translation")
    assert (done.returncode, done.stderr) == (0, "")


def test_the_case_with_expectations():
    done = mmlitmus("check", "examples/my_case.py")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1].endswith(" as expected, 0 surprises")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_it_imports_the_api_and_drivers_alone(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            raise AssertionError(f"{path.name}: {ast.unparse(node)}")
        if isinstance(node, ast.ImportFrom):
            assert node.module in ("mmlitmus.api", "my_driver") or node.module.startswith("mmlitmus.kernel.drivers.")


def findings(name: str, kernel: str) -> list[str]:
    """What one of the lives of a memtype shows. Each is one task: whatever it shows is shown always."""
    done = mmlitmus("check", f"examples/{name}.py", "--kernel", kernel, "--json")
    (row,) = json.loads(done.stdout)
    assert (row["traces"], row["search"]) == (1, "exhaustive")
    assert row["result"] == ("always" if row["violations"] else "never")
    return sorted(v["name"] for v in row["violations"])


def test_the_life_of_a_memtype():
    split = ["freeing-invalid-memtype", "memtype-leak"]
    by_kernel = {
        "v5.10": sorted([*split, "memtype-alias", "untracked-live"]),
        "v6.12": sorted([*split, "memtype-alias", "untracked-live"]),
        "v6.12 +untrack-in-unmap-vmas": sorted([*split, "untrack-walk-failed"]),
        "v6.16": [],
        "v6.12 +pfnmap-track-ctx": [],
    }
    assert {kernel: findings("memtype_life", kernel) for kernel in by_kernel} == by_kernel


def test_the_life_of_a_bars_memtype():
    split = ["freeing-invalid-memtype", "memtype-leak"]
    by_kernel = {
        "v5.10": split,
        "v6.1": split,
        "v6.6": [],  # munmap splits the other way round: the half that stays is the new one
        "v6.9 +untrack-in-unmap-vmas": sorted([*split, "untrack-walk-failed"]),
        "v6.1 +pfnmap-track-ctx": ["pfnmap_track_ctx written without mmap_lock", "spurious-sigbus"],
        "v6.12": [],
        "v6.16": [],
    }
    assert {kernel: findings("vfio_memtype_life", kernel) for kernel in by_kernel} == by_kernel


def test_the_driver_has_about_forty_lines():
    tree = ast.parse((ROOT / "examples" / "my_driver.py").read_text())
    lines = (ROOT / "examples" / "my_driver.py").read_text().splitlines()
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    assert sum(1 for c in classes for line in lines[c.lineno - 1 : c.end_lineno] if line.strip()) <= 45
