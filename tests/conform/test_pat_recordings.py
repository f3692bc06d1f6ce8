"""What real kernels did with memtypes: the recordings say it, the model does it, and the comparison can tell."""

import functools
from dataclasses import replace

import pytest

from mmlitmus.conform import import_alias, import_labtest
from mmlitmus.conform.compare import AGREED, DISAGREED, UNOBSERVED, compare, compare_program
from mmlitmus.conform.execute import NotModelledError, execute_all
from mmlitmus.conform.lab_output import LOG_LIMIT
from mmlitmus.conform.layout import FRAME, Layout, Names, message_of
from mmlitmus.conform.schema import Entry, Fork, Map, Memtype, Message, Probe, RegionKey, Result
from mmlitmus.conform.store import RECORDINGS, dumps, load, packaged

PAT = RECORDINGS / "pat"
KERNELS = {"5.10": "deb-5.10.262", "6.1": "deb-6.1.192", "6.12": "deb-6.12.117", "7.3": "deb-7.3.4"}
OLD = ("5.10", "6.1", "6.12")
NAMES = [f"{program}-{kernel}" for program in ("alias", "labtest") for kernel in KERNELS]
CONVERTERS = {"alias": import_alias.convert, "labtest": import_labtest.convert}

WC, UCM, WB = "write-combining", "uncached-minus", "write-back"


@functools.cache
def recording(name):
    return load(PAT / f"{name}.jsonl")


@functools.cache
def compared(name, spec=None):
    return compare(recording(name), spec)


def steps_of(name, program):
    return next(p for p in recording(name).programs if p.id == program).steps


def memtypes(name, program):
    """The lists of a program that were seen, as text."""
    layout = Layout(recording(name).header)
    lists = [step.observed.memtypes for step in steps_of(name, program)]
    return [layout.memtypes(entries) for entries in lists if entries is not None]


def log(name, program):
    return Layout(recording(name).header).log(next(p for p in recording(name).programs if p.id == program).log)


def first(name, program, kind):
    """The first step of a kind."""
    return next(step for step in steps_of(name, program) if isinstance(step, kind))


# -- what the recordings say ------------------------------------------------------------------------------------------
def test_these_are_the_recordings():
    assert sorted(p.name.removesuffix(".jsonl") for p in packaged() if p.parent == PAT) == sorted(NAMES)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_second_owner_gets_the_first_ones_type(kernel):
    name = f"alias-{kernel}"
    second = steps_of(name, "1")[1]
    assert second.observed.entries == {p: Entry("pte", 0x80000000FD30122F) for p in ("0:a1", "0:b1")}
    assert memtypes(name, "1") == [f"bar[0x300-0x304) {WC}"] * 2


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_zap_of_one_page_drops_the_reservation_of_all(kernel):
    """Until 6.15. What is mapped next is uncached, beside pages that are still write-combining."""
    name = f"alias-{kernel}"
    again = steps_of(name, "2")[4].observed.entries
    assert again["0:a1"].bits & 0x18 == 0x08
    assert again["0:b1"].bits & 0x18 == (0x10 if kernel in OLD else 0x08)
    mine = f"bar[0x300-0x304) {WC}"
    after = ["none", f"bar[0x300-0x304) {UCM}", "none"] if kernel in OLD else [mine, f"{mine}, {mine}", mine]
    assert memtypes(name, "2") == [*after, "none"]


@pytest.mark.parametrize("kernel", KERNELS)
def test_unmapping_the_head_first_leaks_the_reservation(kernel):
    name = f"alias-{kernel}"
    left = f"bar[0x310-0x311) {WC}" if kernel in OLD else "none"
    assert memtypes(name, "3") == [f"bar[0x310-0x314) {WC}"] * 3 + [left]
    assert log(name, "3") == ("freeing-invalid-memtype bar[0x310-0x311)" if kernel in OLD else "none")
    assert memtypes(name, "A3") == [f"bar[0x320-0x32{3 if kernel in OLD else 4}) {WC}", "none"]
    assert memtypes(name, "A4")[-1] == (f"bar[0x330-0x332) {WC}" if kernel in OLD else "none")
    assert memtypes(name, "6") == [f"bar[0x350-0x35{2 if kernel in OLD else 4}) {WC}", "none"]


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_remap_of_a_part_is_not_tracked(kernel):
    """Nor does it get the type that it asks for, when nobody has reserved it."""
    name = f"labtest-{kernel}"
    for program in ("REMAP_PARTIAL shared", "REMAP_BAR_PARTIAL_WC shared"):
        seen = steps_of(name, program)[0].observed
        assert "ar" not in seen.vm_flags["0:a0"].split()
        assert seen.entries["0:a0"].bits & 0x18 == 0x10
        assert set(memtypes(name, program)) == {"none"}
        assert first(name, program.replace("shared", "private"), Map).observed.result == Result(errno="EINVAL")


@pytest.mark.parametrize("kernel", KERNELS)
def test_an_insert_looks_the_type_up(kernel):
    before, after = (s.observed.entries for s in steps_of(f"alias-{kernel}", "7")[1:4:2])
    assert before["0:b0"].bits & 0x18 == after["0:b0"].bits & 0x18 == 0x10
    assert after["0:b1"].bits & 0x18 == 0x08
    for asked in ("FAULT_PFN_BAR", "FAULT_PFN_BAR_WC", "FAULT_PFN_BAR_UC", "FAULT_PFN_RESV_WC(prot)"):
        touched = steps_of(f"labtest-{kernel}", f"{asked} shared")[1].observed.entries["0:a0"]
        assert touched.bits & 0xFFF == 0x235  # read-only until ->pfn_mkwrite was asked


@pytest.mark.parametrize("kernel", KERNELS)
def test_write_back_may_become_write_combining_but_not_the_other_way(kernel):
    name = f"alias-{kernel}"
    assert memtypes(name, "8") == [f"reserved[0x800-0x804) {WC}, reserved[0x800-0x804) {WC}"]
    assert steps_of(name, "9")[1].observed.result == Result(errno="EINVAL")
    assert memtypes(name, "9") == [f"reserved[0x800-0x804) {WB}"]
    assert (log(name, "8"), log(name, "9")) == ("none", "expected-mapping-type reserved[0x800-0x804)")


@pytest.mark.parametrize("kernel", KERNELS)
def test_tracking_shows_in_vm_flags_until_6_15(kernel):
    for p in recording(f"labtest-{kernel}").programs:
        step = p.steps[0]
        if step.observed.vm_flags:
            whole = step.insert == "remap" and kernel in OLD
            assert ("ar" in step.observed.vm_flags["0:a0"].split()) == whole, p.id


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(
    "mode", ["REMAP_RESV", "REMAP_RESV_UC", "REMAP_HOLE", "REMAP_BAR", "REMAP_BAR_WC", "REMAP_RAM"]
)
def test_fork_after_a_copy_on_write_of_the_first_page(kernel, mode):
    """It fails until 6.8; on 5.10 the parent's reservation is gone when it has."""
    name, program = f"labtest-{kernel}", f"{mode} private"
    fork = first(name, program, Fork)
    assert fork.observed.result == (Result(errno="ENOMEM") if kernel in OLD else Result(ok=True))
    assert steps_of(name, program)[2].observed.entries["0:a0"].bits & 0x202 == 0x2  # a page of its own
    listed = mode != "REMAP_RAM"  # RAM has its type in page flags
    assert (memtypes(name, program)[3] == "none") == (kernel == "5.10" or not listed)
    freed = {"5.10": 2, "6.1": 1, "6.12": 1, "7.3": 0}[kernel] if listed else 0
    assert log(name, program).count("freeing-invalid-memtype") == freed


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_private_remap_is_missed_by_a_zap(kernel):
    """Its page offset is its first frame; where that is also the file's offset, the zap hits."""
    for program in recording(f"labtest-{kernel}").programs:
        if not program.id.endswith("private") or not program.steps[0].observed.result.ok:
            continue
        map_, zap = program.steps[0], next(s for s in program.steps if isinstance(s, Probe))
        region = recording(f"labtest-{kernel}").header.region(map_.region)
        hit = zap.observed.entries["0:a0"].bits == 0
        assert hit == (region.pfn + map_.frame == map_.offset), program.id
        assert hit == (program.id == "REMAP_RESV_WC private")


# -- the model does the same ------------------------------------------------------------------------------------------
#: recording -> fields agreed, fields unobserved
AGREEMENT = {
    **dict.fromkeys([f"alias-{k}" for k in KERNELS], (55, 32)),
    **dict.fromkeys([f"labtest-{k}" for k in OLD], (1390, 138)),
    "labtest-7.3": (1420, 138),
}


@pytest.mark.parametrize("name", NAMES)
def test_how_much_was_compared(name):
    comparison = compared(name)
    agreed, unobserved = AGREEMENT[name]
    assert comparison.spec == KERNELS[name.partition("-")[2]]
    counts = comparison.counts
    assert [counts[v] for v in (AGREED, UNOBSERVED, DISAGREED)] == [agreed, unobserved, 0]
    assert counts["fields"] == agreed + unobserved


# -- the comparison can fail ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kernel", OLD)
def test_the_new_tracking_is_not_the_old(kernel):
    for name, spec in ((f"alias-{kernel}", "deb-7.3.4"), ("alias-7.3", KERNELS[kernel])):
        comparison = compared(name, spec)
        assert {f.program for f in comparison.disagreements} == {"2", "3", "A3", "A4", "6"}
        assert {f.name for f in comparison.disagreements} == {"memtypes", "entry", "log"}


@pytest.mark.parametrize(("name", "spec"), [("labtest-7.3", "deb-6.12.117"), ("labtest-6.12", "deb-7.3.4")])
def test_every_tracked_mode_tells_the_new_tracking_from_the_old(name, spec):
    differ = {f.program for f in compared(name, spec).disagreements if f.name in ("memtypes", "vm_flags", "log")}
    tracked = {p.id for p in recording(name).programs if p.steps[0].insert == "remap"}
    assert differ == tracked


def test_what_a_failed_fork_leaves():
    """5.10's under 6.1: the lists after it, and the log."""
    differ = [f for f in compared("labtest-5.10", "deb-6.1.192").disagreements if f.name in ("memtypes", "log")]
    failed = {
        p.id
        for p in recording("labtest-5.10").programs
        if any(isinstance(s, Fork) and s.observed.result.errno for s in p.steps)
    }
    assert {f.program for f in differ} == failed - {"REMAP_RAM private"}
    assert len(failed) == 6


def test_the_wrong_kernel_disagrees_in_words():
    words = [str(f) for f in compared("alias-6.12", "deb-7.3.4").disagreements]
    assert words[0] == (
        "program 2, step 3 (probe call=unmap_mapping_range offset=787200 pages=1): memtypes: "
        f"recorded none, model bar[0x300-0x304) {WC}"
    )
    assert words[5].endswith("log: recorded freeing-invalid-memtype bar[0x310-0x311), model none")


def changed(seen, layout):
    """What may have been observed instead: each differs in one thing."""
    if seen.result is not None:
        yield {"result": Result(errno="EINTR")}
        if seen.result.code is not None:
            yield {"result": replace(seen.result, code=seen.result.code + 1)}
    for place, entry in seen.entries.items():
        for bit in (0, 1, 3, 5, 63, *([] if not entry.bits & 1 or layout.is_ram(entry) else [12])):
            yield {"entries": {**seen.entries, place: Entry("pte", entry.bits ^ 1 << bit)}}
    for place, letters in seen.vm_flags.items():
        yield {"vm_flags": {**seen.vm_flags, place: f"{letters} sf"}}
    if seen.memtypes is not None:
        yield {"memtypes": (*seen.memtypes, Memtype(start=0x10000000, end=0x10001000, type=WB))}
    if seen.memtypes:
        one, *rest = seen.memtypes
        yield {"memtypes": tuple(rest)}
        yield {"memtypes": (one, *seen.memtypes)}
        yield {"memtypes": (replace(one, type="write-through"), *rest)}
        yield {"memtypes": (replace(one, end=one.end + 0x1000), *rest)}


def mutations(program, layout):
    """The program with one observation changed, one after the other, and at which step."""
    for n, step in enumerate(program.steps):
        for other in changed(step.observed, layout):
            now = replace(step, observed=replace(step.observed, **other))
            yield n, replace(program, steps=(*program.steps[:n], now, *program.steps[n + 1 :]))
    said = Message(message="freeing-invalid-memtype", start=0x10000000, end=0x10001000)
    yield len(program.steps) - 1, replace(program, log=(*program.log, said))
    if program.log:
        yield len(program.steps) - 1, replace(program, log=program.log[1:])


@pytest.mark.parametrize("name", ["alias-6.12", "alias-7.3", "labtest-5.10", "labtest-6.12", "labtest-7.3"])
def test_every_observation_counts(name):
    """Whatever was compared and agreed disagrees when it is changed."""
    layout = Layout(recording(name).header)
    executions = compared(name).executions
    n = 0
    for program in recording(name).programs:
        assert [f for f in compare_program(program, executions[program.id], layout) if f.verdict == DISAGREED] == []
        for step, other in mutations(program, layout):
            differ = [f for f in compare_program(other, executions[program.id], layout) if f.verdict == DISAGREED]
            assert [f.index for f in differ][:1] == [step], (program.id, step)
            # a RAM frame that is another one at one step is another one again at the next
            assert all(f.name == "entry" and str(f.recorded).startswith("pte:ram") for f in differ[1:])
            n += 1
    assert n > (150 if name.startswith("alias") else 2500)


def test_which_frame_of_ram_it_is_is_not_compared():
    program = next(p for p in recording("labtest-6.12").programs if p.id == "REMAP_RESV private")
    layout = Layout(recording("labtest-6.12").header)
    entry = program.steps[2].observed.entries["0:a0"]
    assert layout.entry(entry, Names()) == "pte:ram+0x8000000000000867"
    execution = compared("labtest-6.12").executions[program.id]

    def otherwise(bits, *, everywhere):
        """The program with other bits where that entry's frame is: from its first step on, or once."""
        steps = []
        for n, step in enumerate(program.steps):
            seen = dict(step.observed.entries)
            for place, e in seen.items():
                if (
                    e is not None
                    and e.level == "pte"
                    and e.bits & FRAME == entry.bits & FRAME
                    and (everywhere or n == 2)
                ):
                    seen[place] = Entry("pte", e.bits ^ entry.bits ^ bits)
            steps.append(replace(step, observed=replace(step.observed, entries=seen)))
        other = replace(program, steps=tuple(steps))
        return [f for f in compare_program(other, execution, layout) if f.verdict == DISAGREED]

    assert otherwise(entry.bits ^ 1 << 13, everywhere=True) == []
    assert otherwise(entry.bits ^ 1 << 13, everywhere=False), "a page that stays where it is keeps its frame"
    for bits in (0x8000000010010867, entry.bits & ~1):
        assert otherwise(bits, everywhere=True)


def test_lists_are_multisets():
    header = recording("alias-7.3").header
    layout = Layout(header)
    two = [Memtype(start=0xFD000000 + n, end=0xFD004000, type=WC) for n in (0, 0x1000)]
    assert layout.memtypes(two) == layout.memtypes(two[::-1]) == f"bar[0x0-0x4) {WC}, bar[0x1-0x4) {WC}"
    assert layout.memtypes([*two, two[0]]) != layout.memtypes(two)
    assert layout.memtypes([]) == "none"
    assert layout.memtypes(None) is None


def test_a_line_without_a_name_is_no_agreement():
    """The importers know every line; what only the model prints shows."""
    line = "x86/PAT: a:0 ioremap_change_attr failed a for [mem 0x1-0x2]"
    assert message_of(line) is None
    assert Layout(recording("alias-7.3").header).log([line]) == line


def test_a_level_counts_where_slots_are_apart():
    header = recording("alias-7.3").header
    assert Layout(header).entry(Entry("pte", 0), Names()) == Layout(header).entry(Entry("pmd", 0), Names()) == "none"
    apart = Layout(replace(header, placement="apart"))
    assert [apart.entry(Entry(level, 0), Names()) for level in ("pgd", "pmd", "pte")] == [
        "pmd:0x0",
        "pmd:0x0",
        "pte:0x0",
    ]


def test_a_region_that_the_model_does_not_have():
    made = recording("alias-7.3")
    for regions, message in (
        ((RegionKey(name="flash", pfn=0x100, pages=1),), "region flash: 1 pages, where the model's has 0"),
        ((RegionKey(name="hole", pfn=0x20000, pages=1 << 20),), "region hole: 1048576 pages, where the model's has"),
    ):
        header = replace(made.header, regions=made.header.regions + regions)
        with pytest.raises(NotModelledError, match=message):
            execute_all(replace(made, header=header))


def test_regions_may_have_been_elsewhere():
    """Addresses count from where a region was, on either side."""
    made = recording("alias-6.12")
    moved = replace(
        made,
        header=replace(made.header, regions=tuple(replace(r, pfn=r.pfn + 0x100000) for r in made.header.regions)),
        programs=tuple(p for p in made.programs if p.id == "3"),
    )
    words = {str(f).partition(": ")[2] for f in compare(moved).disagreements}
    assert f"memtypes: recorded [0xfd310000-0xfd314000) {WC}, model bar[0x310-0x314) {WC}" in words
    assert "entry 0:a1: recorded pte:ram1+0x800000000000022f, model pte:bar[0x311]+0x800000000000022f" in words


# -- where the recordings come from -----------------------------------------------------------------------------------
@pytest.mark.parametrize("name", NAMES)
def test_the_converters_make_exactly_these_files(name):
    raw = (PAT / "raw" / f"{name}.txt").read_bytes()
    assert dumps(CONVERTERS[name.partition("-")[0]](raw, f"{name}.txt")) == (PAT / f"{name}.jsonl").read_text()


TAIL, OTHER = "pat[A3 rest unmapped]: {PAT: [mem 0x00000000fd3", "0x00000000fd320000-0x00000000fd323000"
BAD = [
    ("alias-6.1", "\nDONE\n", "\n", "nothing in the output matches"),
    ("alias-6.1", "INIT 6.1.0-56", "INIT 6.2.0-56", "no kernel 6.2.0-56-amd64 is known"),
    ("alias-6.1", "INFO resv=", "INFO ", "there is no INFO line"),
    ("alias-6.1", "  pat[A3 tail", "  pat[A3 head", "where ' .pat.*A3 tail unmapped.* was to come"),
    ("alias-6.1", "  5 mremap ok", "  5 mremap ?", "no call prints '\\?'"),
    ("alias-6.1", " write-combining}\n  1 B", " mixed}\n  1 B", "no memtype list prints .* mixed}"),
    ("alias-6.1", "pat[A3 rest unmapped]: {", "pat[A3 rest unmapped]: {{", "no memtype list prints"),
    ("alias-6.1", f"{TAIL}1", f"{TAIL}0", "has changed outside of what the program maps"),
    ("alias-6.1", OTHER, OTHER.replace("fd320", "fd31f"), "is only partly what"),
    ("alias-6.1", " freeing invalid memtype", " freed memtype", "an unknown message: x86/PAT: labtest:98 freed"),
    ("labtest-6.1", "## REMAP_RESV SHARED", "## REMAP_NEW SHARED", "an unknown mode: REMAP_NEW"),
    ("labtest-6.1", "  munmap_rest=0", "  munmap_rest=", "where .*munmap_rest=.* was to come"),
    ("labtest-6.1", "pte1=L4:8000000010001a67 |", "pte1=L4:8000000010001a67 x |", "nothing more was to come"),
    ("labtest-6.1", "  retouch=BUS/2", "  retouch=ILL/2", "where .*retouch=.* was to come"),
    ("labtest-6.1", "mremap_grow=-EFAULT", "mremap_grow=ok", "where .*mremap_grow=.* was to come"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "old", "new", "message"), BAD)
def test_the_converters_refuse_other_output(name, old, new, message):
    raw = (PAT / "raw" / f"{name}.txt").read_text(errors="replace")
    assert old in raw
    with pytest.raises(ValueError, match=message):
        CONVERTERS[name.partition("-")[0]](raw.replace(old, new, 1).encode(), "x.txt")


def test_a_log_that_may_be_cut_short_says_nothing():
    raw = (PAT / "raw" / "alias-6.1.txt").read_text()
    line = next(x for x in raw.splitlines(keepends=True) if "module verification" in x)
    for lines, logs in ((LOG_LIMIT - 9, {True}), (LOG_LIMIT, {False})):
        made = import_alias.convert(raw.replace(line, line * lines).encode(), "x.txt")
        assert {p.log is not None for p in made.programs} == logs


def test_a_message_about_what_two_programs_map_is_nobodys():
    raw = (PAT / "raw" / "alias-6.1.txt").read_text()
    made = import_alias.convert(
        raw.replace("memtype [mem 0xfd310000-0xfd31", "memtype [mem 0xfd300000-0xfd30").encode(), "x.txt"
    )
    assert [p.id for p in made.programs if p.log is None] == ["1", "2"]


@pytest.mark.parametrize("name", NAMES)
def test_the_main_facts_of_the_header(name):
    header = recording(name).header
    assert header.source.file == f"{name}.txt"
    assert [(r.name, r.valid, r.reserved) for r in header.regions] == [
        ("reserved", True, True), ("bar", False, None), ("hole", False, None), ("ram", None, None),
    ]  # fmt: skip
    assert header.kernel_log[0] == "x86/PAT: Configuration [0-7]: WB  WC  UC- UC  WB  WP  UC- WT"
    assert all(p.log is not None for p in recording(name).programs)


def test_what_is_left_out_of_labtest():
    ids = [p.id for p in recording("labtest-6.12").programs]
    assert {i.partition(" ")[0] for i in ids} == set(import_labtest.MODES)
    shared = {i.partition(" ")[0] for i in ids if i.endswith(" shared")}
    assert shared == set(import_labtest.MODES)
    assert {i.partition(" ")[0] for i in ids if i.endswith(" private")} == {
        m for m, (_, how) in import_labtest.MODES.items() if not how.get("insert", "").startswith("fault_pfn")
    }
    raw = (PAT / "raw" / "labtest-6.12.txt").read_text(errors="replace")
    assert all(f"\n## {mode} " in raw for mode in import_labtest.LEFT_OUT)
