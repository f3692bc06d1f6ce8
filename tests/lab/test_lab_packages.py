"""Which packages, from where, and whether they came whole. No network."""

import hashlib
import re
import threading
import time

import pytest

from mmlitmus.conform.lab import LabError, MissingError, Place
from mmlitmus.conform.lab.apt import Apt, Package, mirror, satisfies, stanzas
from mmlitmus.conform.lab.catalogue import KERNELS, known
from mmlitmus.conform.lab.fetch import bzimage_release, choose, fetched, own
from mmlitmus.conform.lab.place import write_json

TARGETS = """\
MetaKey: main/binary-amd64/Packages
Repo-URI: http://mirror.example/debian/
Release: bookworm
Component: main
Origin: Debian
Label: Debian
Signed-By: /keys/debian.gpg

Repo-URI: https://tools.example/apt
Release: stable
Component: main
Origin: Tools
Signed-By: /keys/tools.gpg
"""
SECURITY = """
Repo-URI: http://security.example/debian-security/
Release: bookworm-security
Component: main
Origin: Debian
Label: Debian-Security
"""


def test_a_folded_field_is_one():
    assert stanzas("A: 1\n b\nC: 2\n\n\nA: 3\n") == [{"A": "1 b", "C": "2"}, {"A": "3"}]


def test_the_mirror_is_the_systems():
    found = mirror(stanzas(TARGETS + SECURITY))
    assert found.line("trixie-backports") == (
        "deb [arch=amd64 signed-by=/keys/debian.gpg] http://mirror.example/debian/ trixie-backports main"
    )
    assert found.line("bullseye-security").endswith("http://security.example/debian-security/ bullseye-security main")


def test_security_is_beside_the_archive_where_nothing_else_is_said():
    assert mirror(stanzas(TARGETS)).security == "http://mirror.example/debian-security"


def test_before_the_first_update_a_path_tells_debian():
    text = re.sub(r"(Origin|Label): .*\n", "", TARGETS)
    assert mirror(stanzas(text)).archive == "http://mirror.example/debian/"


def test_a_system_without_debian_is_told_so():
    with pytest.raises(LabError, match="names no Debian archive"):
        mirror(stanzas(TARGETS.split("\n\n")[1]))


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: k.name)
def test_the_build_that_was_tried_is_taken_where_it_is(kernel):
    names = [image.format(abi=kernel.tried) for image in kernel.images]
    other = [image.format(abi=kernel.tried.replace(".", ".9", 1)) for image in kernel.images]
    assert kernel.builds([*other, *names])[0] == kernel.tried
    assert kernel.builds(names[1:]) == []


def test_newer_builds_come_first_by_number():
    images = [f"linux-image-6.12.{n}+deb12-amd64-unsigned" for n in (99, 118, 121, 120)]
    assert known("6.12").builds(images) == [f"6.12.{n}+deb12-amd64" for n in (121, 120, 118, 99)]


def test_an_unknown_kernel_is_answered_with_the_names():
    with pytest.raises(LabError, match=r"no kernel '6\.2'; it knows 5\.10, 6\.1, "):
        known("6.2")


class Index(Apt):
    """An archive's index: packages' names, each with its versions, the newest first, and what the newest depends on."""

    def __init__(self, have: dict[str, tuple[str, ...]], depends: dict[str, str]) -> None:
        self.suites = ("suite",)
        self.have = have
        self.depends = depends

    def names(self, prefix):
        return [name for name in self.have if name.startswith(prefix)]

    def show(self, name, version=None):
        versions = self.have.get(name, ())
        if not versions or version not in (None, *versions):
            raise LabError(f"no {name} {version or ''}")
        return Package(name, version or versions[0], "amd64", "", self.depends.get(name, ""), 0)


def archive(*builds: tuple[int, str], kbuild: tuple[str, ...], wants: str = ">=", **without: str) -> Index:
    """Debian's 6.1 with these builds at these versions, and the one linux-kbuild of all of them."""
    have: dict[str, tuple[str, ...]] = {"linux-kbuild-6.1": kbuild} if kbuild else {}
    depends = {}
    for number, version in builds:
        abi = f"6.1.0-{number}-amd64"
        for name in (f"linux-image-{abi}-unsigned", f"linux-headers-{abi}", f"linux-headers-6.1.0-{number}-common"):
            have[name] = (version,)
        own = f"linux-headers-6.1.0-{number}-common (= {version})"
        shared = f"linux-kbuild-6.1 ({wants} {version})" if wants else "linux-kbuild-6.1"
        depends[f"linux-headers-{abi}"] = f"{own}, {shared}, linux-compiler-gcc-12-x86"
    return Index({name: versions for name, versions in have.items() if name not in without.values()}, depends)


def got(index: Index) -> tuple[str, list[str]]:
    abi, packages = choose(index, known("6.1"))
    return abi, [f"{p.name.replace(abi, '*')}={p.version}" for p in packages]


BUILD = "6.1.0-56-amd64"
HEADERS = ["linux-image-*-unsigned=6.1.192-2", "linux-headers-*=6.1.192-2", "linux-headers-6.1.0-56-common=6.1.192-2"]


@pytest.mark.parametrize("wants", [">=", ""])
def test_headers_come_with_what_they_depend_on_at_their_own_version(wants):
    index = archive((56, "6.1.192-2"), kbuild=("6.1.999-1", "6.1.192-2"), wants=wants)
    assert got(index) == (BUILD, [*HEADERS, "linux-kbuild-6.1=6.1.192-2"])


def test_what_builds_share_may_be_newer_where_the_dependency_allows_it():
    index = archive((56, "6.1.192-2"), (57, "6.1.192-3"), kbuild=("6.1.192-3", "6.1.176-1"))
    assert got(index) == (BUILD, [*HEADERS, "linux-kbuild-6.1=6.1.192-3"])


@pytest.mark.parametrize("wants", ["=", "<="])
def test_where_the_dependency_does_not_allow_it_the_next_build_is_taken(wants):
    index = archive((57, "6.1.192-3"), (56, "6.1.192-2"), (55, "6.1.190-1"), kbuild=("6.1.192-3",), wants=wants)
    abi, packages = got(index)
    assert abi == "6.1.0-57-amd64"
    assert packages[-1] == "linux-kbuild-6.1=6.1.192-3"


def test_an_older_kbuild_is_not_taken():
    index = archive((56, "6.1.192-2"), kbuild=("6.1.176-1",))
    assert got(index) == (BUILD, HEADERS[:1])


@pytest.mark.parametrize("gone", [f"linux-headers-{BUILD}", "linux-headers-6.1.0-56-common", "linux-kbuild-6.1"])
def test_a_build_without_whole_headers_is_taken_if_no_other_has_them(gone):
    assert got(archive((56, "6.1.192-2"), kbuild=("6.1.192-2",), gone=gone)) == (BUILD, HEADERS[:1])


def test_a_build_without_whole_headers_yields_to_one_with_them():
    index = archive((57, "6.1.192-3"), (56, "6.1.192-2"), kbuild=("6.1.192-3",), gone=f"linux-headers-{BUILD}")
    assert got(index)[0] == "6.1.0-57-amd64"


def test_a_kernel_and_its_modules_are_of_one_version():
    one, other = "7.3.4+deb13-amd64", "7.3.6+deb13-amd64"
    have = {f"linux-binary-unsigned-{one}": ("7.3.4-1",), f"linux-modules-{one}": ("7.3.4-2",)}
    have |= {f"linux-binary-unsigned-{other}": ("7.3.6-1",), f"linux-modules-{other}": ("7.3.6-2", "7.3.6-1")}
    abi, packages = choose(Index(have, {}), known("7.3"))
    assert (abi, [p.version for p in packages]) == (other, ["7.3.6-1", "7.3.6-1"])


def test_a_series_that_the_archive_has_dropped_is_told_so():
    with pytest.raises(LabError, match=r"no longer has a kernel 6\.1 \(bookworm, bookworm-security\)"):
        choose(Index({}, {}), known("6.1"))


#: versions in the order of deb-version(7)
VERSIONS = (
    *(
        "0",
        "1.0~~",
        "1.0~",
        "1.0~rc1",
        "1.0~rc1-1",
        "1.0",
        "1.0-1",
        "1.0+deb12",
        "1.0+deb12u1",
        "1.2",
        "1.10a",
        "1.10.",
    ),
    *("6.1.176-1", "6.1.192-2", "6.1.192-3", "6.1.192-10", "7.3.4-1~bpo13+1", "7.3.4-1", "1:0.1"),
)


def test_versions_are_in_debians_order():
    for i, one in enumerate(VERSIONS):
        for j, other in enumerate(VERSIONS):
            held = [r for r in ("<<", "<=", "=", ">=", ">>") if satisfies(one, r, other)]
            assert held == (["<<", "<="] if i < j else ["<=", "=", ">="] if i == j else [">=", ">>"]), (one, other)
    assert satisfies("1.0", "=", "1.0-0")


# -- downloads: an apt-get that writes what it is told to ------------------------------------------------------------
GOOD = b"the package\n"
PACKAGE = Package("p", "1:2", "amd64", hashlib.sha256(GOOD).hexdigest(), "", len(GOOD))


def test_a_damaged_package_is_fetched_again(place: Place, program, tmp_path):
    program(
        "apt-get",
        f"#!/bin/sh\nif [ -e {tmp_path}/once ]; then echo 'the package' > {PACKAGE.file}\n"
        f"else echo damaged > {PACKAGE.file}; touch {tmp_path}/once; fi\n",
    )
    said = []
    got = Apt(tmp_path / "apt", []).download([PACKAGE], tmp_path / "debs", said.append)
    assert [path.read_bytes() for path in got] == [GOOD]
    assert any("damaged" in text for text in said)


def test_a_package_that_is_damaged_twice_is_refused_and_the_others_stay(program, tmp_path):
    program("apt-get", f"#!/bin/sh\necho damaged > {PACKAGE.file}\n")
    debs = tmp_path / "debs"
    debs.mkdir()
    other = Package("o", "1", "amd64", hashlib.sha256(b"x").hexdigest(), "", 1)
    (debs / other.file).write_bytes(b"x")
    with pytest.raises(LabError, match=r"p_1%3a2_amd64\.deb is damaged: .*twice"):
        Apt(tmp_path / "apt", []).download([other, PACKAGE], debs, lambda text: None)
    assert (debs / other.file).read_bytes() == b"x"


def test_what_is_there_in_part_is_left_for_apt_to_carry_on_with(program, tmp_path):
    program("apt-get", f"#!/bin/sh\nprintf 'package\\n' >> {PACKAGE.file}\n")
    debs = tmp_path / "debs"
    debs.mkdir()
    (debs / PACKAGE.file).write_bytes(b"the ")
    assert Apt(tmp_path / "apt", []).download([PACKAGE], debs, lambda text: None)[0].read_bytes() == GOOD


def test_apts_own_words_are_in_the_message(program, tmp_path):
    program("apt-get", "#!/bin/sh\necho 'E: no route to the mirror' >&2; exit 100\n")
    with pytest.raises(LabError, match="(?s)downloading p failed.*no route to the mirror"):
        Apt(tmp_path / "apt", []).download([PACKAGE], tmp_path / "debs", lambda text: None)


def test_without_apt_the_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("mmlitmus.conform.lab.host.SYSTEM", ())
    with pytest.raises(MissingError, match="apt-get is not here.*: apt-get install apt"):
        Apt(tmp_path, []).update()


# -- the cache --------------------------------------------------------------------------------------------------------
def test_a_kernel_that_is_there_in_part_is_not_fetched(place: Place):
    kernel = known("6.12")
    home = place.kernel("6.12")
    assert fetched(place, kernel) is None
    write_json(home / "kernel.json", {"release": kernel.tried, "packages": [["p", "1"]]})
    assert fetched(place, kernel) is None
    (home / "root/boot").mkdir(parents=True)
    (home / "root/boot" / f"vmlinuz-{kernel.tried}").touch()
    assert fetched(place, kernel) is None
    (home / "root/lib/modules" / kernel.tried).mkdir(parents=True)
    have = fetched(place, kernel)
    assert have is not None
    assert (have.headers, have.packages) == (None, (("p", "1"),))
    (home / "kernel.json").write_text("{")
    assert fetched(place, kernel) is None


def test_two_that_fetch_do_so_one_after_the_other(place: Place):
    place.make()
    said: list[str] = []
    order = []

    def second() -> None:
        with place.alone("fetch", said.append):
            order.append("second")

    with place.alone("fetch", said.append):
        thread = threading.Thread(target=second)
        thread.start()
        while not said:
            time.sleep(0.01)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    assert "waiting" in said[0]


def test_a_folder_of_anothers_is_not_removed(tmp_path):
    (tmp_path / "precious").mkdir()
    with pytest.raises(LabError, match="left alone"):
        Place(tmp_path / "precious").remove()
    assert (tmp_path / "precious").is_dir()


# -- a kernel of the user's own ---------------------------------------------------------------------------------------
def bzimage(release: bytes = b"6.12.0-mine (builder) #1\0") -> bytes:
    image = bytearray(0x1000)
    image[0x1F1] = 3
    image[0x1F4:0x1F8] = (0x800 // 16).to_bytes(4, "little")
    image[0x202:0x206] = b"HdrS"
    image[0x20E:0x210] = (0x300).to_bytes(2, "little")
    image[0x500 : 0x500 + len(release)] = release
    return bytes(image)


def test_a_bzimage_tells_its_release(tmp_path):
    (tmp_path / "bzImage").write_bytes(bzimage())
    assert bzimage_release(tmp_path / "bzImage") == "6.12.0-mine"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x7fELF" + bytes(4096), "not a bzImage"),
        (bzimage()[:-1], "cut short: 4095 bytes of 4096"),
        (None, "No such file"),
    ],
)
def test_what_is_no_bzimage_is_refused(tmp_path, content, message):
    path = tmp_path / "bzImage"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(LabError, match=message):
        bzimage_release(path)


def test_modules_are_found_below_what_make_modules_install_wrote(tmp_path):
    (tmp_path / "bzImage").write_bytes(bzimage())
    folder = tmp_path / "out/lib/modules/6.12.0-mine"
    (folder / "kernel").mkdir(parents=True)
    assert own(tmp_path / "bzImage", tmp_path / "out").modules == folder
    assert own(tmp_path / "bzImage", folder).modules == folder
    with pytest.raises(LabError, match="no modules of 6.12.0-mine"):
        own(tmp_path / "bzImage", tmp_path / "bin")
