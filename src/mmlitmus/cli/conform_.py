"""``mmlitmus conform``: the model beside real kernels, program by program."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .common import AS_EXPECTED, INTERRUPTED, SURPRISE, WRONG_USE, Stop, complain, debug_option, split

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

    from mmlitmus.conform.campaign import Campaign, Compared, Kernel
    from mmlitmus.conform.compare import Field
    from mmlitmus.conform.lab import Lab, Machine, Session
    from mmlitmus.conform.schema import Program
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
#: kinds of difference that are shrunk and shown
SHOWN = 10


@click.command("conform", short_help="Compare the model with real kernels.")
@click.option("--kernel", "kernels", multiple=True, metavar="NAME|PATH", help="Kernels of the lab's, or a bzImage.")
@click.option("--modules", type=click.Path(path_type=Path), metavar="PATH", help="A bzImage's modules.")
@click.option("--model", metavar="SPEC", help="The model's kernel to compare with (default: the same as is run).")
@click.option("--programs", type=click.IntRange(1), default=PROGRAMS, show_default=True, metavar="N", help="How many.")
@click.option("--seed", type=click.IntRange(0), metavar="S", help="Programs of this seed only.")
@click.option("--machine", type=click.Choice(["pc", "q35"]), help="Programs of this machine only.")
@click.option("--record", type=click.Path(path_type=Path), metavar="FOLDER", help="Write recordings (never over one).")
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
    record: Path | None,
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
    if recorded:
        if kernels or as_json or as_ktap or record is not None:
            raise click.UsageError("--recorded takes no --kernel, --record, --json or --ktap")
        from mmlitmus.conform.__main__ import main

        return main(["--model", model] if model else [])
    from mmlitmus.conform.lab import Lab, LabError, MissingError
    from mmlitmus.conform.lab.machine import QEMU

    asked = split(kernels) or [DEFAULT_KERNEL]
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
    run = Run(lab, asked, modules, model, Choice(programs, seed, machine), record, not no_shrink, debug)
    interrupted = False
    try:
        run.run()
    except KeyboardInterrupt:
        interrupted = True
    finally:
        run.progress.stop()
    _print(run, as_json, as_ktap)
    for message in run.wrong:
        complain(message)
    if interrupted:
        complain("interrupted; what was run is kept, and not run again")
        return INTERRUPTED
    if run.wrong:
        return WRONG_USE
    return AS_EXPECTED if all(c.good for c in run.campaigns) else SURPRISE


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
    """Which programs to run: ``count`` of them; of one seed, or of the usual one and an unseen one."""

    def __init__(self, count: int, seed: int | None, machine: str | None) -> None:
        self.count = count
        self.machine = machine
        self.seed = SEED if seed is None else seed
        # a seed that nobody has seen, so that every run may find something new; it is said with the rest
        self.unseen = None if seed is not None or count < UNSEEN else time.time_ns() // 1000 % 1_000_000_007

    def of(self, machine: str) -> list[Program]:
        """The programs of a machine."""
        from mmlitmus.conform.generate import programs

        share = self.count // DEVICES if self.machine is None else self.count
        count = share if machine == "q35" or self.machine is not None else self.count - share
        if self.machine not in (None, machine):
            return []
        unseen = count // UNSEEN if self.unseen is not None else 0
        found = [*programs(self.seed, count - unseen, machine)]
        return found if self.unseen is None else [*found, *programs(self.unseen, unseen, machine)]


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
                programs = self.choice.of(machine)
                try:
                    if programs:
                        self._machine(kernel, machine, programs)
                except (LabError, LiveError, NotModelledError, KernelSpecError, NotApplicable, OSError) as e:
                    if self.debug:
                        raise
                    self.wrong.append(str(e))
                    break

    def _machine(self, name: str, machine: str, programs: list[Program]) -> None:
        from mmlitmus.conform.campaign import Answers, Campaign, Kernel, answers_at, run
        from mmlitmus.conform.execute import model_of
        from mmlitmus.conform.lab import Machine
        from mmlitmus.conform.live import header_of

        with self._session(name, Machine(machine)) as session:
            model = self.model or model_of(header_of(session.ready, session.identity, machine).key.kernel)
            keeps = self.record is None
            where = self.lab.place.root / "conform"
            answers = answers_at(where, name, session.identity) if keeps else Answers(None)
            kernel = Kernel(session, session.ready, session.identity, machine, model, answers)
            campaign = next((c for c in self.campaigns if c.kernel == name), None)
            if campaign is None:
                campaign = Campaign(name, model)
                self.campaigns.append(campaign)
            firsts: dict[Signature, tuple[Compared, Sequence[Field]]] = {}
            likes: dict[Signature, int] = {}
            done: list[Program] = []

            def each(one: Compared, left: Sequence[Field]) -> None:
                from mmlitmus.conform.shrink import signature

                self.progress.step()
                if left:
                    # what differs later in the same program may follow from what differs first
                    what = signature(left[0])
                    firsts.setdefault(what, (one, left))
                    likes[what] = likes.get(what, 0) + 1
                elif one.heard is not None and not one.heard.died:
                    done.append(one.heard.program)

            try:
                run(kernel, programs, campaign, each)
            finally:
                shown = self.differences.setdefault(name, [])
                shown += self._shown(kernel, firsts, likes)
            if self.record is not None:
                self._record(kernel, f"{name}-{machine}", done)

    def _session(self, name: str, machine: Machine) -> Session:
        from mmlitmus.conform.lab import LabError, MissingError

        try:
            return self.lab.session(name, machine, self.modules)
        except MissingError:
            raise
        except LabError as e:
            if not e.console:
                raise
            # a kernel that patches its own code while it boots may trip over an emulator of two processors
            complain(f"kernel {name} did not boot; trying once more")
            return self.lab.session(name, machine, self.modules)

    def _shown(
        self,
        kernel: Kernel,
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

    def _record(self, kernel: Kernel, name: str, programs: list[Program]) -> None:
        from mmlitmus.conform.schema import Recording
        from mmlitmus.conform.store import dump

        assert self.record is not None, "asked by whom it is not"
        self.record.mkdir(parents=True, exist_ok=True)
        path = self.record / f"live-{Path(name).name}.jsonl.gz"
        if path.exists():
            self.wrong.append(f"{path} is there already, and is not written over")
            return
        dump(Recording(header=kernel.header(), programs=tuple(programs)), path)
        complain(f"wrote {path}: {len(programs)} programs")


class Progress:
    """A progress bar on a terminal; otherwise nothing."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.done = 0
        self.bar: RichProgress | None = None
        self.wanted = sys.stderr.isatty()

    def step(self) -> None:
        """One more program is done."""
        self.done += 1
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
