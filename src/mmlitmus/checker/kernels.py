"""The kernels that a case can be run on, as the checker sees them.

The model of the kernel is imported when the first kernel is asked for, so that listing cases and reading a stranger's
broken file cost nothing. Tests put another ``Provider`` in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from typing import Any, Protocol

from .case import ALL, Case, canonical


class Machine(Protocol):
    """What a case builds on."""

    def setup(self) -> Any:
        """The explorer's Setup for what the case put on the machine."""
        ...


class Provider(Protocol):
    """Kernels and machines. ``spec_error`` and ``not_applicable`` are what ``kernel`` raises."""

    spec_error: type[Exception]
    not_applicable: type[Exception]

    def kernel(self, spec: str) -> Any:
        """The kernel that a spec such as ``v6.12 +a-patch lockdep`` names."""
        ...

    def releases(self) -> Sequence[str]:
        """Every release, oldest first."""
        ...

    def apart(self) -> Sequence[str]:
        """Releases that are known in part, and belong to no run of releases."""
        ...

    def patches(self) -> Mapping[str, Any]:
        """Every patch by name."""
        ...

    def configs(self) -> Mapping[str, Any]:
        """Every config option by name."""
        ...

    def machine(self, kernel: Any) -> Machine:
        """A fresh machine that runs ``kernel``."""
        ...

    def about(self, release: str) -> str:
        """A release in one line."""
        ...

    def configured(self, release: str) -> str:
        """Whence a release's configuration is known."""
        ...

    def choices(self, kernel: Any) -> Mapping[str, str]:
        """What the kernel does at each seam, and how that is known."""
        ...


class Modelled:
    """The kernels of ``mmlitmus.kernel``."""

    def __init__(self) -> None:
        policy = import_module("mmlitmus.kernel.policy")
        self.spec_error: type[Exception] = policy.KernelSpecError
        self.not_applicable: type[Exception] = policy.NotApplicable
        self.eras = import_module("mmlitmus.kernel.eras")
        self._machine: Callable[[Any], Machine] | None = None

    def kernel(self, spec: str) -> Any:
        """See ``mmlitmus.kernel.eras.kernel``."""
        return self.eras.kernel(spec)

    def releases(self) -> Sequence[str]:
        """Every release, oldest first."""
        names: Sequence[str] = self.eras.releases()
        return names

    def apart(self) -> Sequence[str]:
        """The releases that are known in part, and that only a case that names one runs on."""
        names: Sequence[str] = self.eras.apart()
        return names

    def patches(self) -> Mapping[str, Any]:
        """Every patch by name."""
        table: Mapping[str, Any] = self.eras.patches()
        return table

    def configs(self) -> Mapping[str, Any]:
        """Every config option by name."""
        table = self.eras.configs()
        return table if isinstance(table, Mapping) else {name: name for name in table}

    def machine(self, kernel: Any) -> Machine:
        """A fresh machine that runs ``kernel``."""
        if self._machine is None:
            self._machine = import_module("mmlitmus.kernel.machine").Machine
        return self._machine(kernel)

    def about(self, release: str) -> str:
        """What is new in the release, and the evidence."""
        row = self.eras.RELEASES[release]
        return f"{row.why} [{row.evidence}]"

    def configured(self, release: str) -> str:
        """The package that the configuration was read in; a release of kernel.org has none."""
        build = self.eras.BUILDS.get(release)
        return (
            "as docs/model.md says, for a release has no configuration"
            if build is None
            else (f"read in {build.package} {build.version}")
        )

    def choices(self, kernel: Any) -> Mapping[str, str]:
        """Each seam's alternative, where it was read, and the evidence that this kernel has it."""
        policy = import_module("mmlitmus.kernel.policy")
        told = {}
        for name in sorted(kernel.choices):
            import_module(policy.HOMES[name])
            choice = policy.SEAMS[name].alternatives[kernel.choices[name]]
            told[name] = f"{choice.name}: {choice.source}, {choice.releases} [{self._evidence(kernel, name)}]"
        return told

    def _evidence(self, kernel: Any, seam: str) -> str:
        """``recorded``, ``source`` or ``dossier`` of the release that made the choice; or the patch that did."""
        patches = self.patches()
        for name in kernel.patches:
            if seam in patches[name].choices:
                return f"+{name}"
        row = self.eras.RELEASES[kernel.release]
        while seam not in row.choices and row.based_on:
            row = self.eras.RELEASES[row.based_on]
        evidence: str = row.evidence
        return evidence if row.name == kernel.release else f"{evidence}, as {row.name}"


_provider: list[Provider] = []


def provider() -> Provider:
    """The kernels in use."""
    if not _provider:
        _provider.append(Modelled())
    return _provider[0]


def use(other: Provider | None) -> None:
    """Put other kernels in place of the modelled ones (tests), or the modelled ones back."""
    _provider[:] = [] if other is None else [other]


def asked_for(kernels: Sequence[str], patches: Sequence[str]) -> tuple[list[str], list[str]]:
    """The kernels that a command line names, and what is wrong with the others, one line each.

    Patches without kernels are meant for the newest release. Nothing named gives nothing. A patch that applies to none
    of the kernels that it was named for is wrong; to some, it makes rows that say why not on the others.
    """
    known = provider()
    if patches and not kernels:
        kernels = [known.releases()[-1]]
    good: list[str] = []
    wrong: list[str] = []
    apply: dict[str, str] = {}  # a patch that was named -> why it does not apply to any kernel; nothing: it does
    for word in kernels:
        for spec in _spread(word):
            whole = spell(with_patches(spec, patches))
            why = ""
            try:
                known.kernel(whole)
            except known.not_applicable as e:
                why = str(e)  # a row of its own, with the reason
            except known.spec_error as e:
                wrong.append(str(e))
                continue
            good.append(whole)
            for name in canonical(whole)[1]:
                apply[name] = why if apply.get(name, why) else ""
    nowhere = {name for name, why in apply.items() if why}
    good = [spec for spec in good if not nowhere & set(canonical(spec)[1])]
    wrong += [why for name, why in apply.items() if name in nowhere]
    return list(dict.fromkeys(good)), list(dict.fromkeys(wrong))


def specs_for(case: Case) -> list[str]:
    """The kernels to run a case on when none was asked for: those it expects something of, else the newest."""
    return [spell(spec) for spec in case.expect] or [provider().releases()[-1]]


def _spread(spec: str) -> list[str]:
    """A spec, or one for every release when it names ``all``."""
    first, _, rest = spec.strip().partition(" ")
    if first != ALL:
        return [" ".join(spec.split())]
    return [" ".join((release, *rest.split())) for release in provider().releases()]


def with_patches(spec: str, names: Iterable[str]) -> str:
    """The spec with more patches (or config options) on it."""
    configs = provider().configs()
    _, patches, config = canonical(spec)
    more = []
    for name in names:
        if name in configs and not name.startswith("+"):
            if name not in config:
                more.append(name)
        elif name.lstrip("+") not in patches:
            more.append("+" + name.lstrip("+"))
    return " ".join((spec, *more))


def spell(spec: str) -> str:
    """A spec in the order in which tables print it: release, patches, config."""
    release, patches, config = canonical(spec)
    return " ".join((release, *("+" + p for p in patches), *config))
