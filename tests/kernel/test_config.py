"""What a distribution's build is configured with, and what the model makes of it."""

import importlib.util
import subprocess
from pathlib import Path

import pytest

from mmlitmus.conform.lab import Place
from mmlitmus.conform.lab.catalogue import KERNELS
from mmlitmus.conform.lab.fetch import fetched
from mmlitmus.conform.lab.place import default, write_json
from mmlitmus.kernel import config
from mmlitmus.kernel.config import ASSUMED, CHOICES, NOT_MODELLED, OPTIONS, symbols
from mmlitmus.kernel.eras import RELEASES, kernel
from mmlitmus.kernel.mm.madvise import MADV_DONTNEED
from mmlitmus.kernel.stock import BUILDS

from .world import HUGE, PAGE, World, run

ROOT = Path(__file__).resolve().parents[2]
DEBS = [name for name in RELEASES if name.startswith("deb-")]
MODEL = (ROOT / "docs" / "model.md").read_text()


def tool():
    spec = importlib.util.spec_from_file_location("stock_configs", ROOT / "tools" / "stock_configs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TOOL = tool()


@pytest.mark.parametrize("name", DEBS)
def test_a_stock_build_is_stock(name):
    build = BUILDS[name]
    assert TOOL.release_of(build.version) == name
    have = kernel(name)
    for option in OPTIONS.values():
        if option.symbols:
            on = any(build.config.get(symbol) in ("y", "m") for symbol in option.symbols)
            assert have.has(option.name) == (on != option.inverted), option.name
    chosen = {seam: choice for (symbol, value), (seam, choice) in CHOICES.items() if build.config.get(symbol) == value}
    assert set(chosen) == {seam for seam, _ in CHOICES.values()}
    assert {seam: have.choices[seam] for seam in chosen} == chosen


@pytest.mark.parametrize("symbol", ASSUMED)
def test_what_is_taken_for_granted_is_so(symbol):
    values = {name: build.config[symbol] for name, build in BUILDS.items() if symbol in build.config}
    assert values
    assert set(values.values()) == {ASSUMED[symbol][0]}


def test_what_the_model_has_not_is_in_some_build_and_said():
    for symbol, what in NOT_MODELLED.items():
        assert any(build.config.get(symbol, "n") != "n" for build in BUILDS.values()), symbol
        assert f"`{symbol}`" in MODEL, (symbol, what)


def test_every_symbol_is_in_some_build():
    """... so that none is misspelt."""
    assert {symbol for build in BUILDS.values() for symbol in build.config} == set(symbols())


def test_every_option_is_described_as_it_is():
    """docs/model.md's table: what kernel.org's releases have, and each build."""
    upstream = [name for name, row in RELEASES.items() if name.startswith("v") and not row.apart]
    for option in OPTIONS.values():
        on = [name for name in upstream if kernel(name).has(option.name)]
        since = "on" if on == upstream else f"from {on[0][1:]}" if on else "off"
        assert on == upstream[len(upstream) - len(on) :]
        symbols_ = ("not " if option.inverted else "") + (", ".join(f"`{s}`" for s in option.symbols) or "none")
        cells = [f"`{option.name}`", symbols_, since]
        cells += ["on" if kernel(name).has(option.name) else "off" for name in DEBS]
        assert f"\n| {' | '.join(cells)} |\n" in MODEL, option.name
    assert " | ".join(name.removeprefix("deb-") for name in DEBS) in MODEL
    for symbol in (*ASSUMED, *(symbol for symbol, _ in CHOICES)):
        assert f"`{symbol}`" in MODEL, symbol


def test_the_one_that_has_all_three():
    """Linux 7.3.4 of Debian has CMA, DEVICE_PRIVATE and PT_RECLAIM, and its 6.12.117 none of them."""
    three = {"CMA", "DEVICE_PRIVATE", "PT_RECLAIM"}
    assert three <= kernel("deb-7.3.4").config
    assert not three & kernel("deb-6.12.117").config
    assert three - kernel("v7.3").config == {"CMA"}


# -- what they change -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("spec", ["v6.12", "v6.16", "deb-7.3.4"])
def test_an_emptied_page_table(spec):
    """It stays up to 6.13; from 6.14 on it goes, where the config says so, and the model has nothing of that."""
    said = ["not modelled: MADV_DONTNEED of all that a page table has, with CONFIG_PT_RECLAIM"]

    def whole(w: World) -> None:
        a = w.p.mmap_anon(HUGE // PAGE)
        w.p.write(a)
        w.p.madvise(a, HUGE // PAGE, MADV_DONTNEED)
        assert spec == "v6.12"
        assert w.p.pte(a) == 0

    def part(w: World) -> None:
        a = w.p.mmap_anon(HUGE // PAGE)
        w.p.write(a)
        w.p.madvise(a, HUGE // PAGE - 1, MADV_DONTNEED)
        w.p.munmap(a, HUGE // PAGE)

    run(whole, spec, finds=() if spec == "v6.12" else said)
    run(part, spec)


# -- the tool ---------------------------------------------------------------------------------------------------------
CONFIG = "# a comment\nCONFIG_CMA=y\n# CONFIG_DEBUG_VM is not set\nCONFIG_VFIO_PCI=m\nCONFIG_NONE_OF_OURS=y\n"
READ = {"CMA": "y", "DEBUG_VM": "n", "VFIO_PCI": "m"}


def test_a_config_is_read():
    assert TOOL.read_config(CONFIG) == READ
    with pytest.raises(TOOL.StockError, match="not a kernel's configuration"):
        TOOL.read_config("hello\n")


def test_what_is_kept_is_what_the_tool_writes():
    assert TOOL.text(BUILDS) == TOOL.STOCK.read_text()


def test_from_the_lab(tmp_path, monkeypatch, capsys):
    place = Place(tmp_path)
    known = KERNELS[2]
    home = place.kernel(known.name)
    for folder in ("boot", f"lib/modules/{known.tried}"):
        (home / "root" / folder).mkdir(parents=True)
    (home / f"root/boot/vmlinuz-{known.tried}").touch()
    (home / f"root/boot/config-{known.tried}").write_text(CONFIG)
    image = f"linux-image-{known.tried}-unsigned"
    write_json(home / "kernel.json", {"release": known.tried, "packages": [[image, "6.12.117-1~deb12u1"]]})
    assert dict(TOOL.from_lab(place)) == {"deb-6.12.117": config.Build(image, "6.12.117-1~deb12u1", READ)}
    monkeypatch.setenv("MMLITMUS_LAB", str(tmp_path))
    before = TOOL.STOCK.read_bytes()
    assert TOOL.main(["--check"]) == 1
    assert f"deb-6.12.117: {image} 6.12.117-1~deb12u1: different\n" in capsys.readouterr().out
    assert TOOL.STOCK.read_bytes() == before


def package(folder, version):
    (folder / "DEBIAN").mkdir(parents=True)
    (folder / "boot").mkdir()
    (folder / "boot/config-7.3.4").write_text(CONFIG)
    control = f"Package: linux-image-x\nVersion: {version}\nArchitecture: amd64\nMaintainer: x <x@x>\nDescription: x\n"
    (folder / "DEBIAN/control").write_text(control)
    subprocess.run(["dpkg-deb", "--build", folder, folder.with_suffix(".deb")], check=True, capture_output=True)
    return folder.with_suffix(".deb")


def test_from_a_package(tmp_path, capsys):
    got = TOOL.from_deb(package(tmp_path / "p", "7.3.4-2"))
    assert got == ("deb-7.3.4", config.Build("linux-image-x", "7.3.4-2", READ))
    assert TOOL.main(["--check", "--deb", str(package(tmp_path / "q", "9.9-1"))]) == 2
    assert "there is no row deb-9.9 in kernel/eras.py" in capsys.readouterr().err


def test_the_labs_own_kernels_say_the_same():
    found = dict(TOOL.from_lab(Place(default())))
    if not any(fetched(Place(default()), known) for known in KERNELS):
        pytest.skip("the lab has fetched no kernel")
    assert found == {name: BUILDS[name] for name in found}
