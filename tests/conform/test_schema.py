"""The format of recordings: what is read is what was written, and what is wrong is named by file and line."""

import dataclasses
import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmlitmus.conform.codec import BadValueError, decode, encode
from mmlitmus.conform.compare import RULES
from mmlitmus.conform.schema import (
    ACTIONS,
    ADVICE,
    BACKINGS,
    CACHES,
    CALLS,
    CLEARED,
    FORMAT_VERSION,
    HUGE_INSERTS,
    INSERTS,
    LEVELS,
    MEMTYPES,
    MESSAGES,
    PAGE_INSERTS,
    PIN_FLAGS,
    TRANSFERS,
    VARIANTS,
    VERBS,
    Advise,
    BarKey,
    Clear,
    Dev,
    DeviceKey,
    Dma,
    Entry,
    Exit,
    Fork,
    Frame,
    Header,
    KernelKey,
    LabKey,
    Limit,
    Map,
    Memtype,
    Message,
    Observe,
    Observed,
    Pin,
    Probe,
    Program,
    Protect,
    RegionKey,
    Remap,
    Result,
    Source,
    Switch,
    Touch,
    Transfer,
    Translation,
    Unmap,
    Unpin,
    read_step,
)
from mmlitmus.conform.store import RecordingError, dump, dumps, load, loads

# -- round trip -------------------------------------------------------------------------------------------------------
slots = st.sampled_from("abcd")
pages = st.integers(1, 8)
page = st.integers(0, 7)
prots = st.sampled_from(["", "r", "rw", "rwx"])
bits = st.integers(0, (1 << 64) - 1)
places = st.builds("{}:{}{}".format, st.integers(0, 1), slots, page)
entries = st.none() | st.builds(Entry, st.sampled_from(LEVELS), bits)
unknown = st.dictionaries(st.sampled_from(["short", "later"]), st.integers() | st.text() | st.none(), max_size=1)
results = (
    st.builds(Result, ok=st.just(True), value=st.none() | bits, count=st.none() | st.integers(0, 99), extra=unknown)
    | st.builds(Result, errno=st.sampled_from(["EINVAL", "ENOMEM"]))
    | st.builds(Result, signal=st.sampled_from(["SIGBUS", "SIGSEGV"]), code=st.none() | st.integers(1, 5))
    | st.builds(Result, died=st.sampled_from(["oops", "hang"]), killed=st.booleans())
)
memtypes = st.builds(Memtype, start=bits, end=bits, type=st.sampled_from(MEMTYPES), extra=unknown)
messages = st.builds(Message, message=st.sampled_from(MESSAGES), start=bits, end=bits, extra=unknown)
frames = st.builds(Frame, pfn=bits, refs=st.integers(-3, 3), maps=st.integers(-3, 3), extra=unknown)
translations = st.builds(
    Translation, pfn=bits, refs=st.none() | st.integers(-3, 3), maps=st.none() | st.integers(-3, 3), extra=unknown
)
events = st.sampled_from(
    ["start unmap a0-a4", "end protection-vma b0-0x7f0002000800", "start release 0x0-0xff", "lost 3"]
)
processes = st.integers(0, 1).map(str)
observations = st.builds(
    Observed,
    result=st.none() | results,
    entries=st.dictionaries(places, entries, max_size=2),
    vm_flags=st.dictionaries(places, st.none() | st.text(), max_size=1),
    memtypes=st.none() | st.lists(memtypes, max_size=2).map(tuple),
    pagemap=st.dictionaries(places, st.none() | bits, max_size=2),
    locked=st.none() | st.dictionaries(processes, st.integers(0, 9), max_size=2),
    frames=st.none() | st.dictionaries(places, frames, max_size=2),
    events=st.none() | st.dictionaries(processes, st.lists(events, max_size=2).map(tuple), max_size=2),
    pins=st.none() | st.lists(st.none() | frames, max_size=2).map(tuple),
    iovas=st.none() | st.dictionaries(st.builds("{}+{}".format, page, page), st.none() | translations, max_size=2),
    extra=unknown,
)
seen = {"observed": observations, "extra": unknown}
steps = st.one_of(
    st.builds(
        Map, slot=slots, page=page, pages=pages, backing=st.sampled_from(BACKINGS),
        device=st.integers(0, 1), offset=page, prot=prots, bar=st.integers(0, 5),
        region=st.sampled_from(["", "hole"]), frame=page, insert=st.sampled_from([*INSERTS, *PAGE_INSERTS]),
        cache=st.sampled_from(CACHES), opened=st.sampled_from(["rw", "r"]),
        sharing=st.sampled_from(["shared", "private"]),
        flags=st.sampled_from([(), ("fixed",), ("locked", "fixed_noreplace")]), **seen,
    ),
    st.builds(Unmap, slot=slots, page=page, pages=pages, **seen),
    st.builds(
        Remap, slot=slots, page=page, pages=page, new_pages=page, to=st.none() | slots,
        flags=st.sampled_from([(), ("maymove",), ("maymove", "fixed")]), **seen,
    ),
    st.builds(Protect, slot=slots, page=page, pages=pages, prot=prots, **seen),
    st.builds(Advise, slot=slots, page=page, pages=pages, advice=st.sampled_from([*ADVICE, "lock", "unlock"]), **seen),
    st.builds(Touch, slot=slots, page=page, access=st.sampled_from(["read", "write"]), **seen),
    st.builds(Fork, child=pages, **seen),
    st.builds(Switch, process=page, **seen),
    st.builds(Exit, **seen),
    st.builds(Dev, action=st.sampled_from(ACTIONS), device=st.integers(0, 1), page=page, **seen),
    st.builds(Probe, call=st.sampled_from(CALLS), offset=page, pages=pages, **seen),
    st.builds(
        Pin, slot=slots, page=page, pages=st.integers(1, 24), variant=st.sampled_from(VARIANTS), hold=page,
        process=st.none() | page, flags=st.lists(st.sampled_from(PIN_FLAGS), unique=True).map(tuple), **seen,
    ),
    st.builds(Unpin, hold=page, flags=st.sampled_from([(), ("dirty",)]), **seen),
    st.builds(
        Transfer, kind=st.sampled_from(TRANSFERS), slot=slots, page=page, pages=st.integers(1, 24),
        process=st.none() | page, **seen,
    ),
    st.builds(
        Dma, action=st.sampled_from(["map", "unmap"]), iova=st.integers(0, 15), offset=page,
        pages=st.integers(1, 256), slot=st.none() | slots, page=page, prot=st.sampled_from(["", "r", "w", "rw"]),
        **seen,
    ),
    st.builds(Clear, what=st.sampled_from(CLEARED), **seen),
    st.builds(Limit, locked=page, **seen),
    st.builds(Observe, **seen),
)  # fmt: skip
programs = st.builds(
    Program,
    id=st.text(),
    name=st.text(),
    seed=st.none() | page,
    steps=st.lists(steps, max_size=4).map(tuple),
    log=st.none() | st.lists(messages, max_size=2).map(tuple),
    held=st.none() | st.lists(frames, max_size=2).map(tuple),
    extra=unknown,
)


@given(programs)
def test_what_is_written_is_read(program):
    assert decode(Program, json.loads(json.dumps(encode(program)))) == program


def test_compressed(tmp_path, recorded):
    recording = recorded("vfiorev-6.1")
    for name in ("a.jsonl.gz", "b.jsonl.gz", "c.jsonl"):
        dump(recording, tmp_path / name)
        assert load(tmp_path / name) == recording
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()
    assert len((tmp_path / "a.jsonl.gz").read_bytes()) < len((tmp_path / "c.jsonl").read_bytes()) / 4


def test_only_a_newline_ends_a_line(tmp_path, header):
    """Unicode has other line separators, and JSON allows them within strings."""
    name = "a\u2028b\x85c"
    lines = [json.dumps(x, ensure_ascii=False) for x in (header, {"id": name, "steps": []})]
    path = tmp_path / "r.jsonl"
    path.write_text("\n".join(lines) + "\n")
    recording = load(path)
    assert [p.id for p in recording.programs] == [name]
    dump(recording, path)
    assert load(path).programs == recording.programs


def test_unknown_fields_are_kept(header):
    """Only the version refuses a file: a newer lab may record more."""
    header["key"]["kernel"]["thp"] = "always"
    header["boot"] = {"n": 2}
    touch = {"op": "touch", "slot": "a", "cpu": 1, "observed": {"colour": {"0:a0": "0x0"}}}
    line = {"id": "1", "shrunk": True, "steps": [touch]}
    text = [json.dumps(header), json.dumps(line)]
    recording = loads(text)
    assert recording.header.extra == {"boot": {"n": 2}}
    assert recording.header.key.kernel.extra == {"thp": "always"}
    (program,) = recording.programs
    assert program.extra == {"shrunk": True}
    assert program.steps[0].extra == {"cpu": 1}
    assert program.steps[0].observed.extra == {"colour": {"0:a0": "0x0"}}
    assert loads(dumps(recording).splitlines()).programs == recording.programs
    assert [json.loads(s) for s in dumps(recording).splitlines()] == [{**header, "programs": 1}, line]


def test_absent_and_null_are_unobserved():
    assert read_step({"op": "touch", "slot": "a"}).observed == Observed()
    null = read_step({"op": "touch", "slot": "a", "observed": {"result": None, "entries": {"0:a0": None}}})
    assert null.observed == Observed(entries={"0:a0": None})
    lists = [read_step({"op": "observe", "observed": {"memtypes": m}}).observed for m in (None, [])]
    assert lists == [Observed(), Observed(memtypes=())]
    assert lists[0] != lists[1]


def test_everything_that_the_agent_can_see(header):
    """And what an older reader wrote is read as it was: ``settings`` had no name of its own once."""
    header["key"]["lab"] |= {"cpu_model": "max", "settings": {"ksm": "0", "zswap": None}, "image": "0"}
    header["boots"] = [{**header["key"], "lab": {**header["key"]["lab"], "memory_mib": 3072}}]
    header["zero_pfn"] = "0x2c00"
    frame = {"pfn": "0x20000", "refs": -1, "maps": 0}
    seen = {
        "pagemap": {"0:a0": "0x80000000000000", "0:a1": None},
        "locked": {"0": 3},
        "frames": {"0:a0": frame},
        "events": {"0": ["start unmap a0-a4", "end unmap a0-a4", "start clear 0x0-0xffffffffffffffff", "lost 2"]},
    }
    line = {"id": "1", "steps": [{"op": "observe", "observed": seen}], "held": [frame]}
    recording = loads([json.dumps(header), json.dumps(line)])
    assert recording.header.key.lab.settings == {"ksm": "0", "zswap": None}
    assert recording.header.key.lab.extra == {"image": "0"}
    assert recording.header.boots[0].lab.memory_mib == 3072
    assert recording.header.zero_pfn == 0x2C00
    (program,) = recording.programs
    observed = program.steps[0].observed
    assert observed.pagemap == {"0:a0": 1 << 55, "0:a1": None}
    assert observed.locked == {"0": 3}
    assert observed.frames == {"0:a0": Frame(pfn=0x20000, refs=-1, maps=0)}
    assert observed.places == ["0:a0", "0:a1"]
    assert program.held == (Frame(pfn=0x20000, refs=-1, maps=0),)
    assert [json.loads(s) for s in dumps(recording).splitlines()] == [{**header, "programs": 1}, line]


HOLE = {"name": "hole", "pfn": "0x20000", "pages": 16}


def test_what_the_probe_module_maps(header):
    """Only what is not the default is written, and bit patterns stay as they are."""
    memtype = {"start": "0x20002000", "end": "0x20004000", "type": "write-combining"}
    map_ = {
        "op": "map",
        "slot": "a",
        "pages": 4,
        "backing": "pfnmap",
        "region": "hole",
        "frame": 2,
        "insert": "remap_partial",
    }
    line = {
        "id": "1",
        "steps": [
            {**map_, "cache": "wc", "opened": "r", "offset": 2, "observed": {"memtypes": [memtype, memtype]}},
            {"op": "probe", "call": "unmap_mapping_range", "offset": 2, "pages": 1, "observed": {"memtypes": []}},
        ],
        "log": [{"message": "freeing-invalid-memtype", "start": "0x20002000", "end": "0x20003000"}],
    }
    header["devices"] = []
    header["regions"] = [{**HOLE, "valid": False}, {"name": "ram", "pfn": "0x100", "pages": 1, "reserved": None}]
    recording = loads([json.dumps(header), json.dumps(line)])
    assert recording.header.regions == (
        RegionKey(name="hole", pfn=0x20000, pages=16, valid=False),
        RegionKey(name="ram", pfn=0x100, pages=1),
    )
    (program,) = recording.programs
    assert program.log == (Message(message="freeing-invalid-memtype", start=0x20002000, end=0x20003000),)
    assert (
        program.steps[0].observed.memtypes == (Memtype(start=0x20002000, end=0x20004000, type="write-combining"),) * 2
    )
    assert program.steps[1].observed.memtypes == ()
    assert [json.loads(s) for s in dumps(recording).splitlines()][1] == line


def test_anonymous_memory_needs_no_device(header):
    header["devices"] = []
    step_ = {"op": "map", "slot": "a", "pages": 1, "backing": "anonymous"}
    assert loads([json.dumps(header), json.dumps({"id": "1", "steps": [step_]})]).programs


# -- what is wrong ----------------------------------------------------------------------------------------------------
def step(op, observed=None, **words):
    return {"op": op, **words, **({"observed": observed} if observed else {})}


def memtype_of(start, end, type="write-back"):
    return step("observe", {"memtypes": [{"start": start, "end": end, "type": type}]})


BAD_STEPS = [
    ([step("mmap")], r"steps\[0\]: no operation 'mmap'; known: map, unmap"),
    (["map"], r"steps\[0\]: no operation None"),
    ("steps", r"steps: a list is wanted, not 'steps'"),
    ([step("map", slot="a")], r"steps\[0\]: the field 'pages' is missing"),
    ([step("map", slot="A", pages=1)], r"steps\[0\]\.slot: 'A' is not a slot"),
    ([step("map", slot=1, pages=1)], r"steps\[0\]\.slot: a string is wanted, not 1"),
    ([step("map", slot="a", pages=0)], r"steps\[0\]\.pages: 0 is out of range \(at least 1\)"),
    ([step("map", slot="a", pages=True)], r"steps\[0\]\.pages: a whole number is wanted, not True"),
    ([step("map", slot="a", pages=1.0)], r"steps\[0\]\.pages: a whole number is wanted, not 1\.0"),
    ([step("map", slot="a", pages=1, bar=6)], r"steps\[0\]\.bar: 6 is out of range \(0 to 5\)"),
    ([step("map", slot="a", pages=1, prot="wr")], r"steps\[0\]\.prot: a protection is"),
    ([step("map", slot="a", pages=1, flags=["fixed", "shared"])], r"steps\[0\]\.flags\[1\]: 'shared' is none of"),
    ([step("map", slot="a", pages=1, flags=["fixed", "fixed"])], r"steps\[0\]\.flags: a flag is named twice"),
    ([step("map", slot="a", pages=1, device=1)], r"steps\[0\]: there is no device 1; the header lists 1"),
    (
        [step("map", slot="a", pages=1, backing="cheese")],
        r"steps\[0\]\.backing: 'cheese' is none of bar, anonymous, pfnmap, file, udmabuf, dma_heap",
    ),
    ([step("pin", slot="a", pages=25, variant="pin_user_pages")], r"steps\[0\]\.pages: 25 is out of range \(1 to 24\)"),
    ([step("pin", slot="a", pages=1, variant="pin")], r"variant: 'pin' is none of get_user_pages, "),
    (
        [step("pin", slot="a", pages=1, variant="pin_user_pages", process=0)],
        r"steps\[0\]: pin_user_pages takes neither a process nor locked",
    ),
    (
        [step("pin", slot="a", pages=1, variant="pin_user_pages_remote", process=1)],
        r"steps\[0\]: there is no process 1",
    ),
    ([step("transfer", kind="vmsplice", slot="a", process=0)], r"steps\[0\]: vmsplice is of the process's own memory"),
    ([step("dma", action="map", pages=1)], r"steps\[0\]: a map for DMA wants a slot"),
    ([step("dma", action="unmap", pages=2, offset=255)], r"steps\[0\]: a slot of IOVAs has 256 pages"),
    ([step("dma", action="unmap", pages=1, iova=16)], r"steps\[0\]\.iova: 16 is out of range \(0 to 15\)"),
    (
        [step("map", slot="a", pages=1, backing="pfnmap", region="hole", insert="fault_page")],
        r"steps\[0\]: fault_page is of the region ram only",
    ),
    ([step("observe", {"result": {"errno": "EINVAL", "count": 1}})], r"only a result that is ok has a count"),
    ([step("observe", {"result": {"ok": True, "killed": True}})], r"only what died was killed"),
    ([step("observe", {"iovas": {"3": None}})], r"'3' is not an IOVA"),
    ([step("map", slot="a", pages=1, backing="pfnmap", region="bar")], r"no region 'bar'; the header lists hole"),
    ([step("map", slot="a", pages=1, backing="pfnmap")], r"steps\[0\]: there is no region ''"),
    ([step("map", slot="a", pages=9, backing="pfnmap", region="hole", frame=8)], r"region hole has 16 pages, too few"),
    ([step("map", slot="a", pages=1, backing="pfnmap", region="hole", insert="x")], r"\.insert: 'x' is none of remap,"),
    ([step("map", slot="a", pages=1, backing="pfnmap", region="hole", cache="wb")], r"\.cache: 'wb' is none of"),
    ([step("map", slot="a", pages=1, backing="pfnmap", region="hole", opened="w")], r"\.opened: 'w' is none of rw, r"),
    ([step("probe", call="panic", pages=1)], r"steps\[0\]\.call: 'panic' is none of unmap_mapping_range"),
    ([step("probe", call="unmap_mapping_range")], r"steps\[0\]: the field 'pages' is missing"),
    ([step("observe", {"memtypes": {}})], r"observed\.memtypes: a list is wanted"),
    (
        [memtype_of("0x20000000", "0x20001000", "wc")],
        r"memtypes\[0\]\.type: 'wc' is none of write-back, write-combining",
    ),
    ([memtype_of("0x20000000", "0x20011000")], r"memtypes\[0\]: 0x20000000 to 0x20011000 is no range of pages of one"),
    ([memtype_of("0x20000000", "0x20000000")], r"is no range of pages of one region"),
    ([memtype_of("0x20000800", "0x20001000")], r"is no range of pages of one region"),
    ([memtype_of("0x1ffff000", "0x20001000")], r"is no range of pages of one region"),
    ([step("dev", action="explode")], r"steps\[0\]\.action: 'explode' is none of memory_off,"),
    ([step("touch", slot="a", access="execute")], r"steps\[0\]\.access: 'execute' is none of"),
    ([step("observe"), step("switch", process=1)], r"steps\[1\]: there is no process 1"),
    ([step("fork", child=1), step("fork", child=1)], r"steps\[1\]: there is, or was, a process 1 already"),
    ([step("fork", {"result": {"errno": "ENOMEM"}}, child=1), step("switch", process=1)], "there is no process 1"),
    ([step("exit"), step("touch", slot="a")], r"steps\[1\]: process 0 has exited: only a switch can follow"),
    ([step("exit"), step("switch", process=0)], r"steps\[1\]: there is no process 0"),
    ([step("observe", {"entries": {"1:a0": None}})], r"steps\[0\]\.observed: 1:a0 is of a process that is not there"),
    ([step("observe", {"pagemap": {"1:a0": None}})], r"steps\[0\]\.observed: 1:a0 is of a process that is not there"),
    ([step("observe", {"locked": {"1": 0}})], r"steps\[0\]\.observed: process 1 is not there"),
    ([step("observe", {"events": {"1": []}})], r"steps\[0\]\.observed: process 1 is not there"),
    ([step("observe", {"locked": {"x": 0}})], r"\.locked: 'x' is not a process's number"),
    ([step("observe", {"locked": {"0": -1}})], r"\.locked\['0'\]: -1 is out of range"),
    ([step("observe", {"frames": {"0:a0": {"pfn": "0x1"}}})], r"\.frames\['0:a0'\]: the field 'refs' is missing"),
    ([step("observe", {"events": {"0": ["unmap"]}})], r"\.events\['0'\]\[0\]: 'unmap' is not a notifier event"),
    ([step("observe", {"entries": {"a0": None}})], r"steps\[0\]\.observed\.entries: 'a0' is not a place"),
    ([step("observe", {"entries": {"0:a0": "0x0"}})], r"steps\[0\]\.observed\.entries\['0:a0'\]: an entry is"),
    ([step("observe", {"entries": {"0:a0": "pte:77"}})], r'up to 64 bits as "0x\.\.\." in lower case are wanted'),
    ([step("observe", {"entries": {"0:a0": "pte:0x" + "f" * 17}})], r"up to 64 bits"),
    ([step("observe", {"entries": []})], r"steps\[0\]\.observed\.entries: an object is wanted"),
    ([step("observe", {"result": {}})], r"steps\[0\]\.observed\.result: a result is exactly one of"),
    ([step("observe", {"result": {"ok": True, "errno": "EIO"}})], r"a result is exactly one of"),
    ([step("observe", {"result": {"ok": False}})], r"a result is exactly one of"),
    ([step("observe", {"result": {"ok": 1}})], r"\.result\.ok: true or false is wanted, not 1"),
    ([step("observe", {"result": {"errno": "-EIO"}})], r"\.result\.errno: '-EIO' is not an errno's name"),
    ([step("observe", {"result": {"signal": "BUS"}})], r"\.result\.signal: 'BUS' is not a signal's name"),
    ([step("observe", {"result": {"errno": "EIO", "value": "0x1"}})], r"only a result that is ok has a value"),
    ([step("observe", {"result": {"ok": True, "code": 2}})], r"only a signal has a code"),
]


@pytest.mark.parametrize(("bad", "message"), BAD_STEPS)
def test_a_bad_program_is_named_by_file_and_line(bad, message, header):
    header["regions"] = [HOLE]
    good = {"id": "good", "steps": []}
    lines = [json.dumps(x) for x in (header, good, {"id": "bad", "steps": bad})]
    with pytest.raises(RecordingError, match=rf"^some/file\.jsonl:3: .*{message}"):
        loads(lines, Path("some/file.jsonl"))


def test_a_probe_needs_a_module(header):
    call = {"op": "probe", "call": "unmap_mapping_range", "pages": 1}
    with pytest.raises(RecordingError, match=r"r:2: steps\[0\]: the header lists no regions of a probe module"):
        loads([json.dumps(header), json.dumps({"id": "1", "steps": [call]})], "r")


def test_a_message_about_nothing_that_is_mapped(header):
    said = {"message": "freeing-invalid-memtype", "start": "0x0", "end": "0x1000"}
    with pytest.raises(RecordingError, match=r"r:2: log\[0\]: 0x0 to 0x1000 is no range of pages of one region"):
        loads([json.dumps(header), json.dumps({"id": "1", "steps": [], "log": [said]})], "r")


def without(header, *path):
    *way, last = path
    inner = header
    for name in way:
        inner = inner[name]
    del inner[last]
    return header


BAD_HEADERS = [
    (lambda h: [], "this is no recording"),
    (lambda h: {**h, "format": "other"}, "this is no recording"),
    (lambda h: {**h, "version": FORMAT_VERSION + 1}, r"version: format version \d; this program reads \d"),
    (lambda h: {**h, "version": None}, "version: format version None"),
    (lambda h: {**h, "version": FORMAT_VERSION + 1, "key": "other"}, "version: format version"),
    (lambda h: without(h, "key"), "the field 'key' is missing"),
    (lambda h: without(h, "key", "lab", "module"), r"key\.lab: the field 'module' is missing"),
    (lambda h: without(h, "key", "kernel", "release"), r"key\.kernel: the field 'release' is missing"),
    (
        lambda h: {**h, "key": {**h["key"], "kernel": {"version": "new", "release": "x"}}},
        r"key\.kernel\.version: 'new' is",
    ),
    (lambda h: {**h, "devices": {}}, "devices: a list is wanted"),
    (
        lambda h: {**h, "devices": [{"name": "x", "bars": [{"bar": 0, "pages": 0}]}]},
        r"devices\[0\]\.bars\[0\]\.pages: 0",
    ),
    (lambda h: {**h, "isolation": "some"}, "isolation: 'some' is none of fresh, batch, sequence"),
    (lambda h: {**h, "placement": "near"}, "placement: 'near' is none of apart, packed"),
    (lambda h: {**h, "regions": [{"name": "x", "pfn": 3, "pages": 1}]}, r"regions\[0\]\.pfn: up to 64 bits"),
    (lambda h: {**h, "regions": [{"name": "x", "pfn": "0x3", "pages": 0}]}, r"regions\[0\]\.pages: 0 is out of range"),
    (lambda h: {**h, "source": {"file": "x", "sha256": "abc"}}, r"source\.sha256: 'abc' is not a SHA-256"),
]


@pytest.mark.parametrize(("spoil", "message"), BAD_HEADERS)
def test_a_bad_header(spoil, message, header):
    with pytest.raises(RecordingError, match=rf"^r\.jsonl:1: {message}"):
        loads([json.dumps(spoil(header))], "r.jsonl")


def test_files_that_are_damaged(tmp_path, recorded):
    text = dumps(recorded("vfiorev-6.1"))
    lines = text.splitlines(keepends=True)
    broken = {
        "empty": (b"", r":1: the file is empty"),
        "cut in a line": (text[:-100].encode(), r":10: this is not JSON: .* at column"),
        "cut after a line": ("".join(lines[:-1]).encode(), r":9: 8 programs where the header promises 9: cut short\?"),
        "twice the same": ("".join([*lines, lines[3]]).encode(), r":11: program 'C' is on line 4 already"),
        "blank line": ("".join([*lines[:4], "\n", *lines[4:]]).encode(), r":5: this is not JSON"),
        "a long number": ((lines[0] + "9" * 5000 + "\n").encode(), r":2: this JSON cannot be read"),
        "deep": ((lines[0] + "[" * 200_000 + "\n").encode(), r":2: this JSON cannot be read"),
        "not text": (lines[0].encode() + b"\xff\n", r":2: this is not UTF-8"),
    }
    for name, (raw, message) in broken.items():
        path = tmp_path / f"{name}.jsonl"
        path.write_bytes(raw)
        with pytest.raises(RecordingError, match=message):
            load(path)
    packed = bytearray(gzip.compress(text.encode()))
    packed[len(packed) // 2] ^= 0xFF
    for name, raw in (("cut", gzip.compress(text.encode())[:-20]), ("other", b"not gzip"), ("flipped", bytes(packed))):
        path = tmp_path / f"{name}.jsonl.gz"
        path.write_bytes(raw)
        with pytest.raises(RecordingError, match=r":1: the compressed file is damaged"):
            load(path)


@pytest.mark.parametrize("at", range(10, 300, 7))
def test_a_byte_that_is_not_what_it_was_is_an_error_of_the_file(at, tmp_path, recorded):
    """Whatever the damage does to the compressed stream: never another exception."""
    packed = bytearray(gzip.compress(dumps(recorded("vfiorev-6.1")).encode(), mtime=0))
    packed[at] ^= 0x41
    (tmp_path / "r.jsonl.gz").write_bytes(bytes(packed))
    with pytest.raises(RecordingError):
        load(tmp_path / "r.jsonl.gz")


def test_a_new_recording_is_written_over_nothing(tmp_path, recorded, monkeypatch):
    recording = recorded("vfiorev-6.1")
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(b"somebody's")
    with pytest.raises(FileExistsError):
        dump(recording, path, new=True)
    assert path.read_bytes() == b"somebody's"
    dump(recording, path)
    assert load(path).programs == recording.programs
    monkeypatch.setattr("os.link", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        dump(recording, tmp_path / "b.jsonl.gz", new=True)
    assert [p.name for p in tmp_path.iterdir()] == ["a.jsonl.gz"], "a file is there whole, or not at all"


def test_what_is_no_place_in_a_file():
    with pytest.raises(BadValueError, match="an object is wanted, not 3"):
        decode(Program, 3)


def test_every_verb_has_its_class():
    assert set(VERBS) == {
        "map", "unmap", "remap", "protect", "advise", "touch", "fork", "switch", "exit", "dev", "probe", "observe",
        "pin", "unpin", "transfer", "dma", "clear", "limit", "lockall", "unlockall",
    }  # fmt: skip


# -- the documentation ------------------------------------------------------------------------------------------------
DOCS = Path(__file__).parents[2] / "docs" / "recordings.md"


def names_of(cls):
    return [f.name for f in dataclasses.fields(cls) if f.name not in ("extra", "observed")]


def test_the_documentation_names_everything():
    text = DOCS.read_text()
    rows: dict[str, str] = {}
    for line in text.splitlines():
        if line.startswith("| `"):
            rows.setdefault(line.split("|")[1].strip(" `"), line)  # an observation may be named as a verb is, later on
    missing = [f"{op}.{name}" for op, cls in VERBS.items() for name in names_of(cls) if f"`{name}`" not in rows[op]]
    for cls in (
        Header,
        KernelKey,
        LabKey,
        DeviceKey,
        BarKey,
        RegionKey,
        Source,
        Program,
        Observed,
        Result,
        Memtype,
        Message,
        Frame,
        Translation,
    ):
        missing += [f"{cls.__name__}.{name}" for name in names_of(cls) if f"`{name}`" not in text]
    missing += [action for action in ACTIONS if f"`{action}`" not in rows["dev"]]
    missing += [w for w in (*BACKINGS, *INSERTS, *CACHES) if w and f"`{w}`" not in rows["map"]]
    missing += [insert for insert in (*PAGE_INSERTS, *HUGE_INSERTS) if f"`{insert}`" not in rows["map"]]
    missing += [w for w in (*VARIANTS, *PIN_FLAGS) if f"`{w}`" not in rows["pin"]]
    missing += [w for w in TRANSFERS if f"`{w}`" not in rows["transfer"]]
    missing += [w for w in CLEARED if f"`{w}`" not in rows["clear"]]
    missing += [call for call in CALLS if f"`{call}`" not in rows["probe"]]
    missing += [f"{w}" for w in (*MEMTYPES, *MESSAGES) if f"`{w}`" not in text]
    missing += [rule.name for rule in RULES if rule.name not in rows]
    assert missing == []
    assert f"| {FORMAT_VERSION} |" in rows["version"]
