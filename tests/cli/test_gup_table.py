"""``mmlitmus gup-table``: filters, forms, exit status, bad input. The cells themselves: tests/guptable."""

import json

import pytest

from mmlitmus.guptable import run as cells
from mmlitmus.guptable.mappings import MAPPINGS
from mmlitmus.guptable.paths import PATHS
from mmlitmus.guptable.recorded import Recorded


@pytest.fixture
def run(capsys):
    """Run a command line: (exit status, standard output, standard error)."""
    from mmlitmus.checker import kernels
    from mmlitmus.cli.main import main

    kernels.use(None)

    def go(*args: str) -> tuple[int, str, str]:
        code = main(["gup-table", *args])
        done = capsys.readouterr()
        return code, done.out, done.err

    return go


def found(run, *args):
    code, out, err = run(*args, "--json")
    assert (code, err) == (0, "")
    return [(one["kernel"], one["arch"], one["mapping"], one["path"]) for one in json.loads(out)]


def test_text(run):
    code, out, err = run("--mapping", "page-shared", "--path", "get,fast-only,dma-rw")
    assert (code, err) == (0, "")
    assert (
        out
        == """\
deb-6.12.117 on x86-64 (special entries and a fast path; so have arm64, powerpc,
  riscv, s390, loongarch, arm with LPAE)

a get        b fast-only  c dma-rw
            a b c
page-shared P N p

page-shared: vm_insert_page, shared, written
  page (nothing is in the way)
    as recorded on 6.12.117: get
  none (the fast path: stops: a page without a mapping)
    as recorded on 6.12.117: fast-only
  mapped (nothing is in the way)
    the model alone: dma-rw

P  it is had: a page, its bytes, or a mapping of it
N  no page, and no error
Capitals: a real kernel has answered the same. Small: the model alone.

3 cells: 2 as recorded, 1 of the model alone, 0 not as recorded; 0 not in the
  model
"""
    )


def test_filters(run):
    """In the table's order, whatever order they are named in, each once."""
    assert found(run, "--mapping", "anon-zero", "--path", "pin,get", "--path", "pin") == [
        ("deb-6.12.117", "x86-64", "anon-zero", "get"),
        ("deb-6.12.117", "x86-64", "anon-zero", "pin"),
    ]
    rows = {row[2] for row in found(run, "--mapping", "remap-ram", "--path", "get")}
    assert rows == {name for name in MAPPINGS if name.startswith("remap-ram-")}
    assert found(run, "--mapping", "fault-page", "--path", "get")[0][2] == "fault-page"
    both = found(run, "--mapping", "mixed-io", "--path", "get", "--kernel", "v5.10, v6.12 CMA", "--arch", "arc,x86-64")
    assert both == [
        (kernel, arch, "mixed-io", "get") for kernel in ("v5.10", "v6.12 CMA") for arch in ("x86-64", "arc")
    ]
    assert len(found(run, "--mapping", "mixed-io", "--arch", "all", "--path", "get")) == 3
    assert len(found(run, "--mapping", "anon-zero")) == len(PATHS)


def test_all_kernels(run):
    names = [row[0] for row in found(run, "--kernel", "all", "--mapping", "anon-zero", "--path", "get")]
    assert names[0] == "v5.10"
    assert names[-1] == "deb-7.3.4"
    assert "v5.14" not in names


def test_bytes_are_the_same_and_narrow(run):
    args = ("--mapping", "anon-zero,mixed-ram,vfio-bar", "--kernel", "deb-5.10.262", "--arch", "all")
    first = run(*args)
    assert first == run(*args)
    assert max(map(len, first[1].splitlines())) <= 80


def test_the_whole_table_fits_80_columns(run):
    code, out, _ = run()
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80


BAD = [
    (("--kernel", "v9"), "no kernel 'v9'; known: v5.10"),
    (("--kernel", "v6.12 NOTHING"), "no config option 'NOTHING'; known: "),
    (("--kernel", "v6.12 +nothing"), "no patch 'nothing'; known: "),
    (("--kernel", "v6.12,v6.12 +unshare-anon-only,v5.10 +unshare-anon-only"),
     "v5.10 +unshare-anon-only: n/a (+unshare-anon-only does not apply to v5.10"),
    (("--mapping", "remap-rum"), "there is no mapping 'remap-rum'; they begin with anon, remap, pfn, mixed, page, "),
    (("--mapping", "rem"), "there is no mapping 'rem'"),
    (("--path", "gte"), "there is no path 'gte': there are get, get-w, "),
    (("--arch", "vax"), "there is no architecture 'vax': there are x86-64, arc, arm"),
    (("--arch", "all,arm"), "there is no architecture 'all'"),
]  # fmt: skip


@pytest.mark.parametrize(("args", "message"), BAD)
def test_bad_input(run, args, message):
    code, out, err = run(*args)
    assert (code, out) == (2, "")
    assert err.startswith(f"mmlitmus: {message}")
    assert err.count("\n") == 1


def test_wrong_use(run):
    code, _, err = run("--json", "--html")
    assert code == 2
    assert "--json or --html, not both" in err


@pytest.mark.parametrize("form", [(), ("--json",), ("--html",)])
def test_output(run, tmp_path, form):
    args = ("--mapping", "anon-zero", "--path", "get", *form)
    file = tmp_path / "table"
    assert run(*args, "--output", str(file)) == (0, "", "")
    assert file.read_text() == run(*args)[1]


def test_a_file_that_cannot_be_written(run, tmp_path):
    file = tmp_path / "none" / "table"
    args = ("--mapping", "anon-zero", "--path", "get", "--output", str(file))
    assert run(*args) == (2, "", f"mmlitmus: {file}: No such file or directory\n")


def test_a_difference(run, monkeypatch):
    """Both answers are printed, the cell is marked, and the exit status is 1."""
    monkeypatch.setattr(cells, "recorded", lambda *a: Recorded("6.12.117", "zero page"))
    code, out, _ = run("--mapping", "anon-written", "--path", "get")
    assert code == 1
    assert "\nanon-written *\n" in out
    assert "  page (nothing is in the way)\n    THE MODEL DIFFERS: recorded on 6.12.117 as zero page: get\n" in out
    assert "\n*  a real kernel has answered otherwise\n" in out
    assert "0 as recorded, 0 of the model alone, 1 not as recorded" in " ".join(out.split())
    code, out, _ = run("--mapping", "anon-written", "--path", "get", "--json")
    (one,) = json.loads(out)
    assert (code, one["answer"], one["recorded"], one["agrees"]) == (
        1, "page", {"version": "6.12.117", "answer": "zero page"}, False,
    )  # fmt: skip
    code, out, _ = run("--mapping", "anon-written", "--path", "get", "--html")
    assert code == 1
    assert 'class="c P wrong"' in out
    assert ">P*</td>" in out
