"""C for a program: plain system calls in order, and only those helpers that they need.

The helpers are the parts of ``reproducer.c``. What each step is in C is a method here; so is each thing to look at.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from . import c_pages
from .c_text import (
    ACTIONS,
    CACHE_NAMES,
    KEPT_BACK,
    LOCKS,
    PLACES,
    REGIONS,
    WIDTH,
    YOUNG,
    About,
    Look,
    Part,
    ReproduceError,
    at,
    file_name,
    outcome,
    pages,
    parts,
    prot,
    quoted,
    vfio_lines,
    wrap_at,
)
from .live import words_of
from .schema import (
    Advise,
    Dev,
    Exit,
    Fork,
    Header,
    Map,
    Observe,
    Probe,
    Program,
    Protect,
    Remap,
    Step,
    Switch,
    Touch,
    Unmap,
)


# -- a program --------------------------------------------------------------------------------------------------------
def reproducer(program: Program, header: Header | None = None, what: About | None = None, note: str = "") -> str:
    """The C of a program; ``what`` is seen after its last step. ``header``: of the machine that it was recorded on.

    The same arguments give the same text. ReproduceError where there is no C for a step.
    """
    return Writer(program, header, what or About(), note).text()


@dataclass
class Writer:
    program: Program
    header: Header | None
    what: About
    note: str
    wanted: set[str] = field(default_factory=lambda: {"page"})
    headers: set[str] = field(default_factory=lambda: {"<stdio.h>"})
    lines: list[str] = field(default_factory=list)
    young: set[str] = field(default_factory=set)
    regions: set[str] = field(default_factory=set)
    devices: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        steps = self.program.steps
        self.forks = any(isinstance(s, Fork) for s in steps)
        self.last = len(steps) - 1
        ends, current = set(), 0
        children = [0]
        for step in steps:
            if isinstance(step, Switch):
                current = step.process
            elif isinstance(step, Exit):
                ends.add(current)
            elif isinstance(step, Fork):
                children.append(step.child)
        # where process 0 ends, another one has to be there for the answer
        self.forks = self.forks or bool(ends)
        self.home = max(children) + 1 if 0 in ends else 0
        self.processes = max([*children, self.home]) + 1
        self.deep = 2 if self.forks else 1
        self.compares = any(f.name == "outcome" for f in self.what.looks)
        self.zero = any(t.endswith(" zero") for look in self.what.looks for t in (look.kernel, look.model))
        self.recorded = [self._recorded(n, step) for n, step in enumerate(steps)]

    def _recorded(self, n: int, step: Step) -> str | None:
        """The outcome that a step is to have; None where it is looked at, where it has none or nobody knows it."""
        result = step.observed.result
        if result is None or not step.has_result:
            return None
        if n == self.last and (result.died or any(f.name == "outcome" for f in self.what.looks)):
            return None
        return outcome(result.outcome)

    # -- lines -----------------------------------------------------------------------------------------------------
    def put(self, text: str, deep: int | None = None) -> None:
        """A line of main's, wrapped where arguments part."""
        indent = "\t" * (self.deep if deep is None else deep)
        line = indent + text
        while len(line.expandtabs()) > WIDTH:
            at = wrap_at(line)
            if at is None:
                break
            self.lines.append(line[: at + 1])
            line = f"{indent}\t\t{line[at + 2 :]}"
        self.lines.append(line)

    def comment(self, *texts: str) -> None:
        """A comment of one or more lines."""
        if len(texts) == 1:
            self.put_raw(f"/* {texts[0]} */")
            return
        for text in ("/*", *(f" * {text}".replace("*/", "* /") for text in texts), " */"):
            self.put_raw(text)

    def put_raw(self, text: str, deep: int | None = None) -> None:
        """A line as it is."""
        self.lines.append("\t" * (self.deep if deep is None else deep) + text)

    def need(self, *names: str) -> None:
        """Parts."""
        self.wanted |= set(names)

    # -- steps -----------------------------------------------------------------------------------------------------
    def steps(self) -> None:
        """All of them, in blocks of one process each where there are several."""
        current, live = 0, {0}
        steps = self.program.steps
        if self.forks:
            self.put("if (me == 0) {", 1)
        for n, step in enumerate(steps):
            if isinstance(step, Switch):
                if step.process != current:
                    self._leave(current, step.process, current in live)
                current = step.process
            elif n == self.last and self.what.looks:
                self.comment(*self._said(n))
            if isinstance(step, Fork):
                live.add(step.child)
                self.need("processes")
                self.put(f"spawn({n}, {step.child});")
                self.put_raw("}", 1)
                self.put(f"if (me == {current}) {{", 1)
            elif isinstance(step, Exit):
                live.discard(current)
                if n == self.last:
                    beside = sorted(live)[0] if live else self.home
                    self._leave(current, beside, False)
                    current = beside
                    live.add(current)
            elif type(step) in EMIT:
                EMIT[type(step)](self, n, step)
            elif not isinstance(step, Switch | Observe):
                raise ReproduceError(f"program {self.program.id}: there is no C for {words_of(step)}")
            if n == self.last:
                for look in self.what.looks:
                    self._look(n, look)
        self._end(current)

    def _leave(self, current: int, to: int, lives: bool) -> None:
        """The turn goes to another process. One that ends gives it away first; the other waits for its end."""
        self.need("pass")
        if not lives:
            self.put(f"pass({current}, {to});")
            self.put("_exit(0);")
        self.put_raw("}", 1)
        if not lives:
            self.need("gone")
        self.put(f"if (pass({current}, {to}){'' if lives else f' && gone({current})'}) {{", 1)

    def _end(self, current: int) -> None:
        verdict = "now.unlike_kernel ? now.unlike_model ? 2 : 1 : 0" if self.judges else "0"
        if not self.forks:
            self.put(f"return {verdict};", 1)
            return
        self._tidy()
        self.put_raw("}", 1)
        if current != self.home:
            self.need("pass")
            self.put(f"pass({current}, {self.home});", 1)
        self.put(f"return finish({verdict});", 1)

    def _tidy(self) -> None:
        """An empty block is none."""
        while self.lines and re.fullmatch(r"\tif \(me == \d+\) \{", self.lines[-1]):
            self.lines.pop()
            # the block before it was closed for this one
            self.lines.pop()

    @property
    def judges(self) -> bool:
        """Is there anything to hold an answer to?"""
        return bool(self.what.looks) or any(self.recorded)

    def _said(self, n: int) -> list[str]:
        lines = []
        for look in self.what.looks:
            thing = f"{look.name} of {look.place}" if look.place else look.name
            if look.kernel == look.model:
                lines.append(f"{thing}: {look.kernel}")
            else:
                lines.append(f"{thing}: {self.what.kernel} showed {look.kernel};")
                lines.append(f"{' ' * len(thing)}  {self.what.model} expects {look.model}")
        return [*lines, f"and {self.what.more} more"] if self.what.more else lines

    def _look(self, n: int, look: Look) -> None:
        self.need("now")
        process, at = "", ""
        if look.place:
            number, slot, page = re.fullmatch(r"(\d+)(?::([a-z])(\d+))?", look.place).groups()  # type: ignore[union-attr]
            process = f"now.pid[{number}]" if self.forks else "getpid()"
            at = f"AT('{slot}', {page})" if slot else ""
            self.headers.add("<unistd.h>")
        LOOKERS[look.name](self, n, look, process, at)

    # -- the file --------------------------------------------------------------------------------------------------
    def text(self) -> str:
        """The whole file."""
        self.steps()
        if self.forks:
            self.need("processes", "set-up-processes")
        body, self.lines = self.lines, []
        self._set_up()
        start, self.lines = self.lines, []
        chosen = self._chosen()
        for part in chosen:
            self.headers.update(part.headers)
        if self.devices:
            self.headers |= {"<err.h>"}
        out = [self._head(), "#define _GNU_SOURCE"]
        out += [f"#include {h}" for h in sorted(self.headers)]
        for name in sorted(self.young):
            out += ["", f"#ifndef {name}", f"#define {name} {YOUNG[name]}", "#endif"]
        for part in chosen:
            out += ["", self._filled(part)]
        out += ["", f"int main({'int argc, char **argv' if self.devices else 'void'})", "{", *start, *body, "}"]
        return "\n".join(out) + "\n"

    def _set_up(self) -> None:
        if "fill" in self.wanted:
            self.put_raw("int fd;", 1)
            self.put_raw("", 0)
        wanted = {part.name for part in self._chosen()}
        self.put("setlinebuf(stdout);", 1)
        if self.devices:
            count = max(self.devices) + 1
            usage = " ".join(["ADDRESS"] * count)
            self.put(f"if (argc != {count + 1})", 1)
            self.put(f'errx(2, "usage: %s {usage}, of a PCI function that vfio-pci drives", argv[0]);', 2)
            for n in range(count):
                self.put(f"device[{n}] = open_device(argv[{n + 1}]);", 1)
                if "bars" in wanted:
                    self.put(f"find_bar({n}, argv[{n + 1}], {self._bar(n)});", 1)
        if "probe" in wanted:
            self.put("open_probe();", 1)
        if "zero" in wanted:
            self.put("find_zero_page();", 1)
        if "frame" in wanted:
            self.put("count_regions();", 1)
        if "touch" in wanted:
            self.put("catch_signals();", 1)
        if "file" in wanted:
            self.put("open_file();", 1)
        if "log" in wanted:
            self.put("open_log();", 1)
        if "memtypes" in wanted:
            self.put("count_before = read_memtypes(before);", 1)
        if self.forks:
            self.put("set_up_processes();", 1)
            if self.home:
                self.put_raw("/* Process 0 ends: this one is here for the answer. */", 1)
                for line in ("now.pid[0] = fork();", "if (now.pid[0] < 0)"):
                    self.put(line, 1)
                self.put('err(2, "fork");', 2)
                self.put("if (!now.pid[0]) {", 1)
                for line in ("me = 0;", "now.pid[0] = getpid();", "alarm(60);"):
                    self.put(line, 2)
                self.put_raw("}", 1)
        self.put_raw("", 0)

    def _bar(self, device: int) -> int:
        """The BAR of a device's that is mapped."""
        steps = (s for s in self.program.steps if isinstance(s, Map) and s.backing == "bar")
        return next((s.bar for s in steps if s.device == device), 0)

    def _chosen(self) -> list[Part]:
        """The parts that are needed, with what they need."""
        known = parts()
        chosen: set[str] = set()
        todo = [*self.wanted]
        if self.devices:
            todo.append("vfio")
        while todo:
            name = todo.pop()
            if name == "outcome":
                name = "outcome-recorded" if any(self.recorded) else "outcome-plain"
            if name in chosen:
                continue
            chosen.add(name)
            todo += known[name].needs
            if name in ("say", "touch") and self.compares:
                todo.append("seen")
            if name == "regions" and self.devices:
                todo.append("bars")
            if name == "regions" and self.zero:
                todo.append("zero")
        if self.judges:
            chosen.add("now")
        # name_frame speaks of the BARs that it asks for first
        order = [name for name in known if name in chosen]
        for name in ("walk", "zero", "bars"):
            if name in chosen and "regions" in chosen:
                order = [n for n in order if n != name]
                order.insert(order.index("regions"), name)
        # what is seen last is set by those that print
        if "seen" in chosen:
            order.remove("seen")
            order.insert(1, "seen")
        return [known[name] for name in order]

    def _filled(self, part: Part) -> str:
        seen = '\tsnprintf(seen, sizeof(seen), "%s", text);\n' if self.compares else ""
        count = max(self.devices, default=0) + 1
        bars = (
            f"\tfor (int n = 0; n < {count}; n++) {{\n"
            "\t\tif (pfn >= bar_pfn[n] && pfn < bar_pfn[n] + bar_pages[n]) {\n"
            '\t\t\tsnprintf(to, size, "device%d+%#lx", n, pfn - bar_pfn[n]);\n'
            "\t\t\treturn;\n\t\t}\n\t}\n"
        )
        zero = '\tif (pfn == zero_pfn) {\n\t\tsnprintf(to, size, "zero");\n\t\treturn;\n\t}\n'
        text = part.text
        for word, value in {
            "@PIDS@": f"\tpid_t pid[{self.processes}];\n" if self.forks else "",
            "@KERNEL@": self.what.kernel or "the real kernel",
            "@RECORDED@": self._table(),
            "@SEEN@": seen,
            "@DEVICES@": str(count),
            "@HOME@": str(self.home),
            "@AND_BARS@": ", a device's BAR 0" if self.devices else "",
            "@BARS@": bars if self.devices else "",
            "@ZERO@": zero if self.zero else "",
        }.items():
            text = text.replace(word, value)
        if part.name == "processes":
            text = f"#define PROCESSES {self.processes}\n{text}"
        if part.name == "now" and self.forks:
            self.headers.add("<sys/types.h>")
        return text

    def _table(self) -> str:
        words = ["NULL" if text is None else quoted(text) for text in self.recorded]
        lines, line = [], "\t"
        for word in words:
            if len(line.expandtabs()) + len(word) > 90:
                lines.append(line.rstrip())
                line = "\t"
            line += f"{word}, "
        return "\n".join([*lines, line.rstrip()])

    def _head(self) -> str:
        name = file_name(self.program.id).removesuffix(".c")
        lines = [f"{self.program.id}: {self.note}" if self.note else self.program.id, ""]
        lines += self._summary()
        addresses = "".join(f" ADDRESS{n}" if len(self.devices) > 1 else " ADDRESS" for n in sorted(self.devices))
        lines += ["", f"\tgcc -O1 -o {name} {name}.c && ./{name}{addresses}", ""]
        lines += ["It runs as root."] if self._needs_root() else []
        lines += self._module()
        lines += vfio_lines(self.devices, self.header)
        lines += self._statuses()
        head = "\n".join(f" * {line}".rstrip().replace("*/", "* /").replace(" * \t", " *\t") for line in lines)
        return f"// SPDX-License-Identifier: GPL-2.0-only\n/*\n{head}\n */"

    def _needs_root(self) -> bool:
        rooted = {"probe", "fill", "unmap", "entry", "memtypes", "log", "pagemap", "pin", "unpin"}
        return bool(self.devices or rooted & self.wanted)

    def _summary(self) -> list[str]:
        looks = [look for look in self.what.looks if look.kernel != look.model]
        if not looks and self.what.unseen:
            return [
                f"{self.what.kernel} and {self.what.model} differ in what no program can look at ({self.what.unseen}):",
                "what is checked here is that each step ends as it was recorded.",
            ]
        if not looks:
            return [
                f"As {self.what.kernel} was seen to run it."
                if self.what.kernel
                else "It was not recorded: it says what it sees."
            ]
        look = looks[0]
        thing = f"{look.name} of {look.place}" if look.place else look.name
        lines = [
            f"At step {self.last} ({thing}), {self.what.kernel} showed",
            f"\t{look.kernel}",
            "where mmlitmus's model",
        ]
        lines[-1] += f" of it ({self.what.model}) expects" if self.what.model else " expects"
        lines += [f"\t{look.model}"]
        if look.kernel.startswith("died"):
            lines.append("It takes the machine with it: run it in one that you can lose.")
        return lines

    def _module(self) -> list[str]:
        wanted = {part.name for part in self._chosen()}
        if not {"probe", "fill"} & wanted:
            return []
        arguments, words = [], []
        for name in ("bar", "reserved", "hole"):
            if name not in self.regions:
                continue
            region = self.header.region(name) if self.header is not None else None
            place = region.pfn << 12 if region is not None else PLACES[name]
            arguments.append(f"{REGIONS[name]}={place:#x}")
            if name in KEPT_BACK:
                words.append(f"memmap={KEPT_BACK[name]}${place:#x}")
        lines = ["It needs mmlitmus's probe module (src/mmlitmus/conform/guest; `make module KDIR=...` there):"]
        lines.append("\t" + " ".join(["insmod mmlitmus_probe.ko", *arguments]))
        if "bar" in self.regions:
            lines.append("bar= is the address of a PCI BAR that no driver uses, such as a VGA card's frame buffer.")
        if words:
            lines.append(f"The kernel's command line keeps memory back for it: {' '.join(words)}")
        return lines

    def _statuses(self) -> list[str]:
        if any(look.kernel != look.model for look in self.what.looks):
            return ["Exit status: 0: as the real kernel; 1: as the model expects; 2: neither, or it could not be run."]
        if self.judges:
            return ["Exit status: 0: as recorded; 2: something else, or it could not be run."]
        return ["Exit status: 0: it ran; 2: it could not be run."]

    # -- each verb -------------------------------------------------------------------------------------------------
    def say(self, n: int, name: str, call: str) -> None:
        """A system call that returns -1 when it fails."""
        self.need("say")
        self.put(f'say({n}, "{name}", {call});')

    def one_of(self, words: Sequence[str]) -> str:
        """Flags, with definitions of those that are young."""
        self.young |= {w for w in words if w in YOUNG}
        return " | ".join(words) or "0"

    def map(self, n: int, step: Map) -> None:
        """mmap."""
        flags = ["MAP_SHARED" if step.sharing == "shared" else "MAP_PRIVATE"]
        fd, offset = "-1", "0"
        if step.backing == "anonymous":
            flags.append("MAP_ANONYMOUS")
        elif step.backing == "bar":
            self.devices.add(step.device)
            self.need("region-of")
            fd = f"device[{step.device}]"
            offset = f"region_of({fd}, VFIO_PCI_BAR{step.bar}_REGION_INDEX)"
            offset += f" + {pages(step.offset)}" if step.offset else ""
        elif step.backing == "pfnmap":
            self.need("fill")
            self.regions.add(step.region)
            how = "O_RDWR" if step.opened == "rw" else "O_RDONLY"
            words = (
                how, step.region.upper(), step.insert.upper(), CACHE_NAMES.get(step.cache, step.cache.upper()),
                str(step.frame - step.offset),
            )  # fmt: skip
            self.put(f"fd = probe_file({', '.join(words)});")
            fd, offset = "fd", f"{pages(step.offset)}" if step.offset else "0"
        elif step.backing == "file":
            self.need("file")
            fd, offset = "file", pages(step.offset)
        else:
            raise ReproduceError(f"program {self.program.id}: there is no C for {words_of(step)}")
        flags += [f"MAP_{flag.upper()}" for flag in step.flags]
        where = f"{at(step.slot, step.page)}, {pages(step.pages)}, {prot(step.prot)}, {self.one_of(flags)}"
        self.say(n, "mmap", f"(long)mmap({where}, {fd}, {offset})")
        if fd == "fd":
            self.put("close(fd);")

    def unmap(self, n: int, step: Unmap) -> None:
        """munmap."""
        self.say(n, "munmap", f"munmap({at(step.slot, step.page)}, {pages(step.pages)})")

    def remap(self, n: int, step: Remap) -> None:
        """mremap."""
        flags = self.one_of([f"MREMAP_{flag.upper()}" for flag in step.flags])
        to = f", {at(step.to, 0)}" if step.to is not None else ""
        if not to and "dontunmap" in step.flags:
            to = f", {at(step.slot, step.page)}"
        sizes = f"{pages(step.pages)}, {pages(step.new_pages)}"
        self.say(n, "mremap", f"(long)mremap({at(step.slot, step.page)}, {sizes}, {flags}{to})")

    def protect(self, n: int, step: Protect) -> None:
        """mprotect."""
        self.say(n, "mprotect", f"mprotect({at(step.slot, step.page)}, {pages(step.pages)}, {prot(step.prot)})")

    def advise(self, n: int, step: Advise) -> None:
        """madvise, mlock, munlock."""
        where = f"{at(step.slot, step.page)}, {pages(step.pages)}"
        call = LOCKS.get(step.advice)
        if call is not None:
            self.say(n, call.partition("(")[0], call.format(where))
        else:
            self.say(n, "madvise", f"madvise({where}, {self.one_of([f'MADV_{step.advice.upper()}'])})")

    def touch(self, n: int, step: Touch) -> None:
        """A load or a store."""
        self.need("touch")
        self.put(f"touch({n}, {at(step.slot, step.page)}, {'true' if step.access == 'write' else 'false'});")

    def dev(self, n: int, step: Dev) -> None:
        """An action on a device."""
        self.devices.add(step.device)
        part, name, call = ACTIONS[step.action]
        self.need(*part)
        self.say(n, name, call.format(fd=f"device[{step.device}]", page=step.page))

    def probe(self, n: int, step: Probe) -> None:
        """The probe module calls a kernel function."""
        if step.call != "unmap_mapping_range":
            raise ReproduceError(f"program {self.program.id}: there is no C for {words_of(step)}")
        self.need("unmap")
        self.say(n, "unmap_mapping_range", f"unmap_range({step.offset}, {step.pages})")

    # -- each thing to see -----------------------------------------------------------------------------------------
    def look_outcome(self, n: int, look: Look, process: str, where: str) -> None:
        """The last outcome."""
        self.headers.add("<string.h>")
        for whose, text in (("kernel", look.kernel), ("model", look.model)):
            self.put(f"now.unlike_{whose} |= strcmp(seen, {quoted(text)}) != 0;")

    def look_number(self, n: int, look: Look, process: str, where: str) -> None:
        """si_code of the last signal, or the value of a register."""
        name = "code" if look.name == "si_code" else "value"
        if name == "value":
            self.put(f'printf("step {n}: value: %#x\\n", value);')
        for whose, text in (("kernel", look.kernel), ("model", look.model)):
            self.put(f"now.unlike_{whose} |= {f'{name} != {text}' if text != 'nothing' else 'true'};")
        self.headers.add("<stdbool.h>")

    def look_at(self, n: int, look: Look, process: str, where: str) -> None:
        """What is there at an address of a process."""
        part = {"vm_flags": "flags"}.get(look.name, look.name)
        self.need(part)
        self.young |= {"MADV_COLD"} if part == "frame" else set()
        arguments = [
            str(n),
            quoted(f"{look.name} of {look.place}"),
            process,
            where,
            *map(quoted, (look.kernel, look.model)),
        ]
        self.put(f"{part}({', '.join(a for a in arguments if a)});")

    def look_all(self, n: int, look: Look, process: str, where: str) -> None:
        """A list of the whole machine's."""
        self.need(look.name)
        self.regions |= {s.region for s in self.program.steps if isinstance(s, Map) and s.region}
        call = "kernel_log" if look.name == "log" else look.name
        self.put(f"{call}({n}, {quoted(look.kernel)}, {quoted(look.model)});")


EMIT: dict[type[Step], Callable[..., None]] = {
    Map: Writer.map,
    Unmap: Writer.unmap,
    Remap: Writer.remap,
    Protect: Writer.protect,
    Advise: Writer.advise,
    Touch: Writer.touch,
    Dev: Writer.dev,
    Probe: Writer.probe,
    **c_pages.EMIT,
}

#: what can be seen, by the name of the field
LOOKERS: dict[str, Callable[..., None]] = {
    "outcome": Writer.look_outcome,
    "si_code": Writer.look_number,
    "value": Writer.look_number,
    "entry": Writer.look_at,
    "vm_flags": Writer.look_at,
    "pagemap": Writer.look_at,
    "frame": Writer.look_at,
    "locked": Writer.look_at,
    "memtypes": Writer.look_all,
    "log": Writer.look_all,
}
