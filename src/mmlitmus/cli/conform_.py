"""``mmlitmus conform``: the model beside real kernels, program by program."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .common import AS_EXPECTED, INTERRUPTED, MOST, SURPRISE, WRONG_USE, Stop, complain, debug_option, split

if TYPE_CHECKING:
    from contextlib import ExitStack

    from rich.progress import Progress as RichProgress

    from mmlitmus.conform.campaign import Campaign, Compared, Kernel, Twice
    from mmlitmus.conform.compare import Field
    from mmlitmus.conform.lab import Lab, Session
    from mmlitmus.conform.schema import Header, Program
    from mmlitmus.conform.shrink import Signature
    from mmlitmus.report.conform import Difference

DEFAULT_KERNEL = "6.12"
#: the seed that is always run; another, unseen one joins it
SEED = 1
PROGRAMS = 100
#: one program in so many is for the machine with an IOMMU, and a device's BAR
DEVICES = 6
#: one program in so many is of an unseen seed
UNSEEN = 10
#: of so many programs each language has its share, unless one is asked for
SHARES = {"gup": 4, "huge": 6, "calls": 6}
#: kinds of difference that are shrunk and shown
SHOWN = 10
#: memory of each boot: where the kernel has what it has in memory is to differ
MEMORY_MB = (2048, 3072)
#: guests side by side, unless asked otherwise: as many as there are CPUs, up to here
JOBS = 8


@click.command("conform", short_help="Compare the model with real kernels.")
@click.option("--kernel", "kernels", multiple=True, metavar="NAME|PATH", help="Kernels of the lab's, or a bzImage.")
@click.option("--modules", type=click.Path(path_type=Path), metavar="PATH", help="A bzImage's modules.")
@click.option("--model", metavar="SPEC", help="The model's kernel to compare with (default: the same as is run).")
@click.option("--programs", type=click.IntRange(1), default=PROGRAMS, show_default=True, metavar="N", help="How many.")
@click.option("--seed", type=click.IntRange(0), metavar="S", help="Programs of this seed only.")
@click.option("--machine", type=click.Choice(["pc", "q35"]), help="Programs of this machine only.")
@click.option(
    "--language",
    type=click.Choice(["mapping", "gup", "huge", "calls"]),
    help="Programs about mappings of device memory only, get_user_pages, huge leaves, or calls (default: all).",
)
@click.option("--jobs", "-j", type=click.IntRange(1, MOST), metavar="N", help="Guests side by side (default: CPUs).")
@click.option("--batch", is_flag=True, help="Several programs in one boot, where that answers as fresh kernels do.")
@click.option("--boots", type=click.IntRange(1, 2), help="Boots that have to agree (default: 2 to record, else 1).")
@click.option("--record", type=click.Path(path_type=Path), metavar="FOLDER", help="Write recordings (never over one).")
@click.option("--reproducer", type=click.Path(path_type=Path), metavar="FOLDER", help="Write a C file a difference.")
@click.option(
    "--reproduce", metavar="PROGRAM", help="Print a program as C: RECORDING:ID[:STEP], or a generated one's ID."
)
@click.option("--no-shrink", is_flag=True, help="Show programs that differ as they were generated.")
@click.option("--recorded", is_flag=True, help="Compare the recordings that come with mmlitmus; nothing is booted.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--ktap", "as_ktap", is_flag=True, help="Print KTAP, as the kernel's selftests do.")
@debug_option
def command(
    kernels: tuple[str, ...],
    modules: Path | None,
    model: str | None,
    programs: int,
    seed: int | None,
    machine: str | None,
    language: str | None,
    jobs: int | None,
    batch: bool,
    boots: int | None,
    record: Path | None,
    reproducer: Path | None,
    reproduce: str | None,
    no_shrink: bool,
    recorded: bool,
    as_json: bool,
    as_ktap: bool,
    debug: bool,
) -> int:
    """Run generated programs on real kernels, under emulation, and on the model, and compare them field by field.

    Answers are kept in the lab's folder: what was run once is not run again. Exit status: 0: everything agrees, or is
    explained; 1: something differs; 2: wrong use, or something that could not be run.
    """
    if as_json and as_ktap:
        raise click.UsageError("--json or --ktap, not both")
    if reproduce is not None:
        return _reproduce(reproduce)
    if recorded:
        if kernels or as_json or as_ktap or record is not None:
            raise click.UsageError("--recorded takes no --kernel, --record, --json or --ktap")
        from mmlitmus.conform.__main__ import main

        if model is not None:
            _model(model)
        return main(["--model", model] if model else [])
    if batch and record is not None and language not in ("huge", "calls"):
        raise click.UsageError("--record with --batch is for --language huge or calls: others are of fresh kernels")
    from mmlitmus.conform.lab import Lab, LabError, MissingError
    from mmlitmus.conform.lab.machine import QEMU

    asked = split(kernels) or [DEFAULT_KERNEL]
    if modules is not None and not any("/" in name for name in asked):
        raise click.UsageError("--modules goes with --kernel PATH")
    if model is not None:
        _model(model)
    lab = Lab(say=complain)
    try:
        lab.kernel(asked[0], modules)
        from mmlitmus.conform.lab.host import program

        program(QEMU, "run a kernel")
    except MissingError as e:
        raise Stop(str(e)) from e
    except LabError as e:
        if len(asked) == 1:
            raise Stop(str(e)) from e
    run = Run(lab, asked, modules, model, Choice(programs, seed, machine, language), record, not no_shrink, debug)
    run.jobs = jobs or min(len(os.sched_getaffinity(0)), JOBS)
    run.batch = batch
    run.boots = boots or (1 if record is None else 2)
    interrupted = False
    try:
        run.run()
    except KeyboardInterrupt:
        interrupted = True
    finally:
        run.progress.stop()
    if reproducer is not None:
        _write_reproducers(run, reproducer)
    _print(run, as_json, as_ktap)
    for message in run.wrong:
        complain(message)
    if interrupted:
        complain("interrupted; what was run is kept, and not run again")
        return INTERRUPTED
    if run.wrong:
        return WRONG_USE
    return AS_EXPECTED if all(c.good for c in run.campaigns) else SURPRISE


def _model(spec: str) -> None:
    """Stop if the model has no such kernel: before anything is booted."""
    from mmlitmus.kernel import eras
    from mmlitmus.kernel.policy import KernelSpecError, NotApplicable

    try:
        eras.kernel(spec)
    except (KernelSpecError, NotApplicable) as e:
        raise Stop(f"--model {spec}: {e}") from e


def _reproduce(name: str) -> int:
    """Print a program as C."""
    from mmlitmus.conform.c_text import ReproduceError
    from mmlitmus.conform.execute import NotModelledError
    from mmlitmus.conform.reproduce import named
    from mmlitmus.conform.store import RecordingError

    try:
        click.echo(named(name), nl=False)
    except (ReproduceError, RecordingError, NotModelledError) as e:
        raise Stop(str(e)) from e
    except UnicodeDecodeError as e:
        raise Stop(f"{name}: not UTF-8") from e
    return AS_EXPECTED


def _write_reproducers(run: Run, folder: Path) -> None:
    """A C file for each difference that is shown. What cannot be written is said in ``run.wrong``."""
    from dataclasses import replace

    from mmlitmus.conform.c_text import ReproduceError, file_name
    from mmlitmus.conform.reproduce import of_difference

    models = {campaign.kernel: campaign.model for campaign in run.campaigns}
    for kernel, shown in run.differences.items():
        for n, difference in enumerate(shown):
            one = difference.one
            assert one.heard is not None and one.header is not None, "it was compared"
            path = folder / file_name(f"{Path(kernel).name}-{one.program.id}")
            release = one.header.key.kernel.release
            try:
                program = replace(one.heard.program, id=path.stem)
                text = of_difference(program, one.header, release, models[kernel], difference.fields)
                folder.mkdir(parents=True, exist_ok=True)
                with path.open("x") as file:
                    file.write(text)
            except FileExistsError:
                run.wrong.append(f"{path} is there already, and is not written over")
            except (ReproduceError, OSError) as e:
                run.wrong.append(f"{path}: {e}")
            else:
                shown[n] = replace(difference, reproducer=str(path))


def _print(run: Run, as_json: bool, as_ktap: bool) -> None:
    from mmlitmus.report import conform as report

    if as_json:
        click.echo(report.as_json(run.campaigns, run.differences))
    elif as_ktap:
        click.echo("\n".join(report.ktap(run.campaigns, run.differences)))
    elif run.campaigns:
        lines = report.table(run.campaigns)
        for campaign in run.campaigns:
            lines += report.notes(campaign)
            for shown in run.differences.get(campaign.kernel, []):
                lines += ["", *report.difference(campaign.kernel, campaign.model, shown)]
        click.echo("\n".join(lines))


class Choice:
    """Which programs to run: ``count`` of them; of one seed, or of the usual one and an unseen one; of one language, or
    of both.
    """

    def __init__(self, count: int, seed: int | None, machine: str | None, language: str | None = None) -> None:
        self.count = count
        self.machine = machine
        self.language = language
        self.seed = SEED if seed is None else seed
        # a seed that nobody has seen, so that every run may find something new; it is said with the rest
        self.unseen = None if seed is not None or count < UNSEEN else time.time_ns() // 1000 % 1_000_000_007

    def many(self, machine: str) -> int:
        """How many programs are for a machine."""
        if self.machine is not None:
            return self.count if machine == self.machine else 0
        share = self.count // DEVICES
        return share if machine == "q35" else self.count - share

    def of(self, machine: str, header: Header) -> list[Program]:
        """The programs of a machine, for what its guest has."""
        from mmlitmus.conform.generate import kinds_of, parts_of, programs

        count, has = self.many(machine), parts_of(header)
        found: list[Program] = []
        for language, share in self.shares(count).items():
            if not kinds_of(has, language):
                continue  # nothing that a leaf could be of
            unseen = share // UNSEEN if self.unseen is not None else 0
            found += programs(self.seed, share - unseen, machine, has=has, language=language)
            if self.unseen is not None:
                found += programs(self.unseen, unseen, machine, has=has, language=language)
        return found

    def shares(self, count: int) -> dict[str, int]:
        """How many of a machine's programs are of each language."""
        if self.language is not None:
            return {self.language: count}
        others = {language: count // share for language, share in SHARES.items()}
        return {"mapping": count - sum(others.values()), **others}


class Run:
    """All kernels, one after the other, machine by machine."""

    def __init__(
        self,
        lab: Lab,
        kernels: Sequence[str],
        modules: Path | None,
        model: str | None,
        choice: Choice,
        record: Path | None,
        shrinks: bool,
        debug: bool,
    ) -> None:
        self.lab = lab
        self.kernels = kernels
        self.modules = modules
        self.model = model
        self.choice = choice
        self.record = record
        self.shrinks = shrinks
        self.debug = debug
        #: guests side by side
        self.jobs = 1
        #: several programs in one boot?
        self.batch = False
        #: how many boots have to agree
        self.boots = 1
        self.campaigns: list[Campaign] = []
        self.differences: dict[str, list[Difference]] = {}
        self.wrong: list[str] = []
        self.progress = Progress(len(kernels) * choice.count)

    def run(self) -> None:
        """Run them. What cannot be run is in ``wrong``; the rest goes on."""
        from mmlitmus.conform.execute import NotModelledError
        from mmlitmus.conform.lab import LabError
        from mmlitmus.conform.live import LiveError
        from mmlitmus.kernel.policy import KernelSpecError, NotApplicable

        if self.choice.unseen is not None:
            complain(f"besides seed {self.choice.seed}, an unseen one: --seed {self.choice.unseen}")
        for kernel in self.kernels:
            for machine in ("pc", "q35"):
                try:
                    if self.choice.many(machine):
                        self._machine(kernel, machine)
                except (LabError, LiveError, NotModelledError, KernelSpecError, NotApplicable, OSError) as e:
                    if self.debug:
                        raise
                    self.wrong.append(str(e))
                    break

    def _machine(self, name: str, machine: str) -> None:
        from contextlib import ExitStack

        from mmlitmus.conform.campaign import Campaign, Twice, run
        from mmlitmus.conform.pool import Pool

        with ExitStack() as stack:
            sizes = MEMORY_MB[: self.boots]
            booted = [self._boot(stack, name, machine, size, n > 0) for n, size in enumerate(sizes)]
            kernels = [kernel for kernel, _ in booted]
            if machine == "pc" and not kernels[0].ready.get("module"):
                self._without_probe(name, self.choice.many(machine))
                return
            programs = self.choice.of(machine, kernels[0].header())
            asked = kernels[0] if len(kernels) == 1 else Twice(*kernels)
            campaign = next((c for c in self.campaigns if c.kernel == name), None)
            if campaign is None:
                campaign = Campaign(name, asked.model)
                self.campaigns.append(campaign)
            firsts: dict[Signature, tuple[Compared, Sequence[Field]]] = {}
            likes: dict[Signature, int] = {}
            done: list[Compared] = []

            def each(one: Compared, left: Sequence[Field]) -> None:
                from mmlitmus.conform.shrink import signature

                self.progress.step()
                if left:
                    # what differs later in the same program may follow from what differs first
                    what = signature(left[0])
                    firsts.setdefault(what, (one, left))
                    likes[what] = likes.get(what, 0) + 1
                done.append(one)

            try:
                with ExitStack() as pools:
                    share = max(1, self.jobs // len(kernels))
                    ahead = [pools.enter_context(Pool(*one, share, complain)) for one in booted]
                    answered = zip(*(pool.programs(programs) for pool in ahead), strict=True)
                    run(asked, (one for one, *_ in answered), campaign, each)
            except KeyboardInterrupt:
                self.shrinks = False  # who breaks off does not wait for more programs
                raise
            finally:
                shown = self.differences.setdefault(name, [])
                shown += self._shown(asked, firsts, likes)
            if self.record is not None:
                of = self.choice.language
                self._record(f"{name}-{machine}" + (f"-{of}" if of not in (None, "mapping") else ""), done)

    def _without_probe(self, name: str, count: int) -> None:
        why = f"{name}: there is no probe module for this kernel, as its headers are not here (the modules' build link)"
        self.progress.step(count)
        if self.choice.machine == "pc":
            self.wrong.append(f"{why}, and programs of pc need it")
        else:
            complain(f"{why}; only programs of devices (q35) are run")

    def _boot(self, stack: ExitStack, name: str, machine: str, memory_mb: int, again: bool) -> tuple[Kernel, Session]:
        from mmlitmus.conform.batch import BatchAnswers
        from mmlitmus.conform.campaign import Answers, Kernel, answers_at
        from mmlitmus.conform.execute import NotModelledError, model_of
        from mmlitmus.conform.lab import Machine
        from mmlitmus.conform.live import header_of

        session = stack.enter_context(self.lab.session(name, Machine(machine, memory_mb, kaslr=True), self.modules))
        try:
            model = self.model or model_of(header_of(session.ready, session.identity, machine).key.kernel)
        except NotModelledError as e:
            raise NotModelledError(f"{e}; --model names the one to compare with") from e
        answers: Answers = answers_at(self.lab.place.root / "conform", name, session.identity)
        # a second boot is there to disagree: in batches it is quick, and what it says otherwise is asked again
        answers = BatchAnswers(answers) if self.batch or again else answers
        return Kernel(session, session.ready, session.identity, machine, model, answers), session

    def _shown(
        self,
        kernel: Kernel | Twice,
        firsts: dict[Signature, tuple[Compared, Sequence[Field]]],
        likes: dict[Signature, int],
    ) -> Iterator[Difference]:
        from mmlitmus.conform.explained import explain
        from mmlitmus.conform.shrink import shrink
        from mmlitmus.report.conform import Difference

        def left(one: Compared) -> list[Field]:
            return [f for f in one.different if explain(kernel.model, f) is None]

        for what, (one, fields) in [*firsts.items()][:SHOWN]:
            found = shrink(one.program, what, kernel.compare, left) if self.shrinks else None
            if found is None:
                yield Difference(one, tuple(fields), likes[what])
            else:
                yield Difference(found[0], tuple(left(found[0])), likes[what], True)

    def _record(self, name: str, done: Sequence[Compared]) -> None:
        from mmlitmus.conform.campaign import recordings
        from mmlitmus.conform.store import dump

        assert self.record is not None, "asked by whom it is not"
        self.record.mkdir(parents=True, exist_ok=True)
        for n, recording in enumerate(recordings(done), 1):
            more = f"-{n}" if n > 1 else ""  # answers of another boot: a campaign that was broken off went on
            path = self.record / f"live-{Path(name).name}{more}.jsonl.gz"
            try:
                dump(recording, path, new=True)
            except FileExistsError:
                self.wrong.append(f"{path} is there already, and is not written over; what was run is kept")
                continue
            complain(f"wrote {path}: {len(recording.programs)} programs")


class Progress:
    """A progress bar on a terminal; otherwise nothing."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.done = 0
        self.bar: RichProgress | None = None
        self.wanted = sys.stderr.isatty()

    def step(self, count: int = 1) -> None:
        """So many more programs are done."""
        self.done += count
        if not self.wanted:
            return
        if self.bar is None:
            from rich import progress
            from rich.console import Console

            columns = (
                progress.BarColumn(), progress.MofNCompleteColumn(), progress.TimeElapsedColumn(),
                progress.TimeRemainingColumn(),
            )  # fmt: skip
            self.bar = progress.Progress(*columns, console=Console(stderr=True), transient=True, auto_refresh=False)
            self.bar.add_task("programs", total=self.total)
            self.bar.start()
        self.bar.update(self.bar.task_ids[0], completed=self.done)
        self.bar.refresh()

    def stop(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.stop()
