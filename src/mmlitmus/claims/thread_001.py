"""Thread 001: "mm: Re-allow pinning of zero pfns", June 2022; and what became of its questions until 2025.

A condition that was rearranged in 5.19-rc let the zero page slip into a negation: it could no longer be pinned for
long, nobody can move it either, and the pin never returned. It happened once more in 6.0-rc.
"""

from __future__ import annotations

from mmlitmus.api import always, never, sometimes

from .claim import Claim, says

# The messages, by the time in their headers, as far as it is known.
PATCH = "2022-06-11"
REPLY_1 = "2022-06-11 20:29 +0200"
REPLY_2 = "2022-06-15 17:56"
REPLY_3 = "2022-06-23 20:07 +0200"
MAIL = "2022-06-23 16:21 EST"
LATER = "same thread, date not known"
AUGUST = "2022-08"
OF_2025 = "2025, on the same loop"

BUG, FIXED = "v5.19-rc1", "v5.19"
ERRNO = "v5.19-rc1 +longterm-isolation-errno"
NEVER_RETURNS = always("hard livelock of pin")
GETS_ZERO = always("zero-page-counted", "zero-page-pinned")
DIVERGES = always("pin-diverged")

# What several claims rest on.
HANGS = says("gup/zero-page", NEVER_RETURNS, BUG)
HUNG_NOT = says("gup/zero-page", GETS_ZERO, "v5.14")
HANGS_NO_MORE = says("gup/zero-page", GETS_ZERO, FIXED)
REFUSED = says("gup/pinnable", always("coherent-page-taken", "movable-zero-page-refused", "zero-page-refused"), BUG)
REFUSED_NOT = says("gup/pinnable", always("coherent-page-taken"), "v5.14", FIXED)
QEMU_HANGS = says("vfio/type1", always("hard livelock of qemu"), BUG)
QEMU_IS_TOLD = says("vfio/type1", always("map-failed"), ERRNO)
ONE_CONDITION = (
    *says("gup/zero-page", GETS_ZERO, "v6.1"),
    *says("gup/zero-page", NEVER_RETURNS, "v6.1 +zero-page-negated"),
)
NOT_FOR_WRITING = says("gup/zero-page/write", never, BUG)

THREAD_001 = (
    Claim(
        "C001-01", "001",
        "An earlier commit has changed by mistake which pages may be pinned: the zero page no longer.",
        PATCH, "holds",
        "The zero page is refused, wherever it lies. With CONFIG_CMA so is what lies in an isolated block, and that "
        "was meant. Everything else is judged as before.",
        (
            *REFUSED,
            *REFUSED_NOT,
            *says("gup/pinnable", always("coherent-page-taken", "isolated-page-taken"), "v5.14 CMA"),
            *says(
                "gup/pinnable",
                always(
                    "coherent-page-taken", "isolated-zero-page-refused", "movable-zero-page-refused",
                    "zero-page-refused",
                ),
                "v5.19-rc1 CMA",
            ),
            *HANGS,
            *HUNG_NOT,
        ),
    ),
    Claim(
        "C001-02", "001",
        "That breaks device assignment by VFIO, and perhaps other users of get_user_pages.",
        PATCH, "depends",
        on="how they ask: for long, and not for writing; the fast functions fall back, and hang too",
        because="VFIO maps pc.rom for reading and never returns. A pin for a while, or for writing, is as it was.",
        settled_by=(
            *QEMU_HANGS,
            *HANGS,
            *says("gup/zero-page/fast", NEVER_RETURNS, BUG),
            *NOT_FOR_WRITING,
            *says("gup/zero-page/short", GETS_ZERO, BUG),
        ),
    ),
    Claim(
        "C001-03", "001",
        "To take the zero page out of the negation mends it.",
        PATCH, "depends",
        on="where the zero page lies: with CONFIG_CMA, in a block that is being isolated, it is still refused, as it "
        "was not up to 5.18",
        because="The pin returns again. What the commit has also changed is the order: CMA and isolation are asked "
        "about first, and the zero page has no exception there. Such a block is hardly to be had: it is isolated only "
        "if nothing in it is reserved, and the zero page is (mm/page_isolation.c has_unmovable_pages).",
        settled_by=(
            *HANGS_NO_MORE,
            *REFUSED_NOT[1:],
            *says("gup/zero-page/isolated-block", NEVER_RETURNS, "v5.19 CMA"),
            *says("gup/zero-page/isolated-block", never, "v5.14 CMA"),
            *says("gup/zero-page/isolated-block/for-a-while", never, "v5.19 CMA"),
        ),
    ),
    Claim(
        "C001-04", "001",
        "Nobody can rely on a long-term pin of the zero page: a write to a private mapping puts another page there.",
        REPLY_1, "holds",
        "The device keeps the zero page, and the process goes on with another. From 6.2 on no such pin gets the zero "
        "page.",
        (
            *says("gup/pin-then-write", DIVERGES, "v5.14", FIXED, "v6.0", "deb-6.1.192"),
            *says("vfio/type1/written", DIVERGES, "v5.14", FIXED, "v6.0", "deb-6.1.192"),
            *says("gup/pin-then-write", never, "v6.6", "v6.12"),
            *says("vfio/type1/written", never, "v6.6", "v6.12"),
        ),
    ),
    Claim(
        "C001-05", "001",
        "Something like it should happen in shared mappings, when blocks of a disk are allocated late.",
        REPLY_1, "fails",
        "A hole of a shared file is a page of the file as soon as it is touched, and a store does not replace it.",
        correction="taken back by its author: C001-06",
        reason="the model has no page cache; on each of the recorded kernels a long-term pin for reading of a hole in "
        "a shared file of tmpfs gets a page, and not the zero page (mmlitmus gup-table --mapping file-shared)",
    ),
    Claim(
        "C001-06", "001",
        "The zero page is never used in a shared mapping.",
        REPLY_3, "depends",
        on="who maps it: anonymous memory and page cache do not; but DAX does in holes, and any driver could",
        because="What a driver inserts so can be pinned for long in a shared mapping. By 6.12 the insertion is refused "
        "where somebody could pin it and a store could replace it. (Nobody pins DAX for long: -EOPNOTSUPP.)",
        settled_by=(
            *says("gup/special-entry/zero-page", always("zero-page-pinned"), "v5.14", FIXED, "v6.6", "v6.10"),
            *says("gup/special-entry/zero-page", never, "v6.12", "v7.3"),
        ),
    ),
    Claim(
        "C001-07", "001",
        "In future a pin for reading might have the zero page unshared, as is done for shared anonymous pages now.",
        REPLY_1, "proposal",
        fate="done in 6.2, for long-term pins; others still get the zero page",
        because="Then no long-term pin gets the zero page, and what is stored afterwards is what the device sees. The "
        "fault handler has to change with it: if it does not unshare the zero page, the pin never returns.",
        settled_by=(
            *says("gup/pin-then-write/shared", DIVERGES, "v5.14"),
            *says("gup/pin-then-write/shared", never, FIXED),
            *says("gup/zero-page", never, "v6.6", "v6.12"),
            *says("gup/pin-then-write", never, "v6.6", "v6.12"),
            *says("gup/zero-page/short", always("zero-page-pinned"), "v6.6", "v6.12"),
            *says("gup/unshare", NEVER_RETURNS, "v6.6 +unshare-anon-only"),
            *says("gup/unshare", never, "v6.6"),
        ),
        design=("unshare-anon-only",),
    ),
    Claim(
        "C001-08", "001",
        "And something like it could be done for a page that is not anonymous, in a shared mapping.",
        REPLY_1, "proposal",
        fate="not done: unsharing is for private mappings; long-term pins to write to files are refused instead (6.5)",
        because="There is nothing to unshare: a page of its own would end the sharing.",
        reason="nothing was ever proposed in a form that could be run",
    ),
    Claim(
        "C001-09", "001",
        "It is hard to see how QEMU comes by this, and why it was no bug before.",
        REPLY_2, "undecided",
        "Before, the pin of memory that was never written gave the zero page, and nobody noticed; on VFIO up to 5.19 "
        "not even that its pins were never given back.",
        correction="explained by C001-10 and C001-11",
        why="it is a question",
    ),
    Claim(
        "C001-10", "001",
        "A guess: it is some odd read-only thing that the BIOS maps, and that no device ever uses; VFIO only needs the "
        "pin to go on working.",
        REPLY_3, "holds",
        "A guest's memory with pc.rom is mapped up to 5.18 and since 5.19, and not in between. A device that read the "
        "ROM would go on reading zeros after it was written, up to 6.1. (That none does is said by who saw it.)",
        (
            *says("vfio/type1", always("pin-leak"), "v5.14", FIXED),
            *QEMU_HANGS,
            *says("vfio/type1/written", DIVERGES, "v5.14", FIXED),
            *says("vfio/type1/zero-pages", always("pin-leak"), "v5.14", FIXED),
            *says("vfio/type1/zero-pages", never, "v6.0"),
        ),
        correction="confirmed: the region is pc.rom, at 0xc0000 of the guest",
    ),
    Claim(
        "C001-11", "001",
        "It comes up because VFIO does not mostly use FORCE with WRITE, which would move the zero page away.",
        REPLY_2, "holds",
        "With WRITE, or FORCE and WRITE for a mapping that is read-only, each page is one of its own, on the broken "
        "kernel too. A shared mapping that is read-only it would refuse, and the pages would count as locked.",
        (*HANGS, *NOT_FOR_WRITING, *says("gup/zero-page/forced", never, BUG, "v5.14", "v6.12")),
    ),
    Claim(
        "C001-12", "001",
        "It causes an infinite loop in the kernel.",
        REPLY_2, "holds",
        "No schedule lets the pin end. SIGKILL does.",
        (*HANGS, *QEMU_HANGS, *says("gup/zero-page/killed", never, BUG)),
    ),
    Claim(
        "C001-13", "001",
        "Something may go on trying when the pin fails, in the kernel or in user space; QEMU seems just to fail.",
        REPLY_3, "depends",
        on="which: it is the kernel that goes on, and the pin never fails, so that user space is never told",
        because="With an errno instead of another round, MAP_DMA fails once, and QEMU's mapping ends there.",
        settled_by=(*HANGS, *QEMU_HANGS, *QEMU_IS_TOLD, *says("gup/zero-page", always("pin-failed"), ERRNO)),
        design=("longterm-isolation-errno",),
    ),
    Claim(
        "C001-14", "001",
        "The loop is the one in __gup_longterm_locked: pin, check and migrate, again while that gives 0.",
        MAIL, "holds",
        "It is the loop of that function that has no end, and another design of that one function ends it.",
        (*HANGS, *says("gup/zero-page", always("pin-failed"), ERRNO)),
        design=("longterm-isolation-errno",),
    ),
    Claim(
        "C001-15", "001",
        "32 pages are pinned, the pin gives 32, and the check gives 0 for ever.",
        MAIL, "holds",
        "The case has 32 pages. A turn of the loop counts the zero page up 32 times, looks at it once, and counts it "
        "down 32 times: nothing has changed.",
        HANGS,
    ),
    Claim(
        "C001-16", "001",
        "The reason is that folio_is_pinnable said yes before, and says no now.",
        MAIL, "holds",
        "Nothing but that one condition makes the difference, on 5.19-rc as on 6.1.",
        (*REFUSED, *HANGS, *REFUSED_NOT, *HANGS_NO_MORE, *ONE_CONDITION),
        design=("zero-page-negated",),
    ),
    Claim(
        "C001-17", "001",
        "So the page fails to be isolated, and an error is counted; then nothing is done but to unpin, and to return "
        "0.",
        MAIL, "holds",
        "So it goes: of neighbours that are the same page one is looked at, so of 32 one error is counted. An error "
        "that is returned ends the loop.",
        (*HANGS, *says("gup/zero-page", always("pin-failed"), ERRNO)),
        design=("longterm-isolation-errno",),
    ),
    Claim(
        "C001-18", "001",
        "To try again in the hope of better luck does not help.",
        MAIL, "depends",
        on="why the page cannot be isolated: the zero page, and a driver's, are on no list and never will be; a page "
        "that somebody has isolated for a moment comes back",
        because="Then the next round isolates it, and there the loop is what makes the pin succeed.",
        settled_by=(
            *HANGS,
            *says("gup/isolated-page/driver", NEVER_RETURNS, "v5.19 CMA", "v6.12 CMA"),
            *says("gup/isolated-page", never, "v5.19 CMA", "v6.12 CMA"),
            *says("gup/zero-page/isolated-block/for-a-while", never, "v5.19 CMA"),
        ),
    ),
    Claim(
        "C001-19", "001",
        "With an errno there, QEMU reports a failure on pc.rom at 0xc0000.",
        MAIL, "holds",
        "MAP_DMA of that region fails, and of no other. So an errno alone makes a refusal out of a hang.",
        (*QEMU_IS_TOLD, *QEMU_HANGS),
        design=("longterm-isolation-errno",),
    ),
    Claim(
        "C001-20", "001",
        "To return 0 when nothing was done is the bug; if anything could not be isolated, it should be an error.",
        LATER, "proposal",
        fate="not merged; only the return values were cleaned up later, and the loop goes on",
        because="It ends the livelock. But a pin then fails beside somebody who has the page for a moment, and would "
        "have succeeded.",
        settled_by=(
            *says("gup/zero-page", always("pin-failed"), ERRNO),
            *says("gup/isolated-page/driver", always("pin-failed-einval"), "v6.0 +longterm-isolation-errno CMA"),
            *says("gup/isolated-page", sometimes("pin-failed-einval"), "v6.0 +longterm-isolation-errno CMA"),
            *says("gup/isolated-page", never, "v6.0 CMA"),
        ),
        design=("longterm-isolation-errno",),
    ),
    Claim(
        "C001-21", "001",
        "It is not safe to give the pin back while the page is on the list of those to be migrated.",
        LATER, "fails",
        "Who isolates a page holds a reference of his own. In every interleaving with somebody who isolates and puts "
        "back, no page is used after it was freed, and no count is wrong.",
        says("gup/isolated-page", never, "v5.14 CMA", "v5.19 CMA", "v6.1 CMA", "v6.12 CMA"),
    ),
    Claim(
        "C001-22", "001",
        "The change was not intended.",
        LATER, "undecided",
        "What it changed is at C001-01.",
        why="what somebody meant, no execution says",
    ),
    Claim(
        "C001-23", "001",
        "The support for coherent devices' memory does the same again.",
        AUGUST, "holds",
        "In 6.0-rc1 the zero page is in the negation once more, and the pin never returns.",
        (
            *says("gup/pinnable", always("movable-zero-page-refused", "zero-page-refused"), "v6.0-rc1"),
            *says("gup/pinnable", never, "v6.0"),
            *says("gup/zero-page", NEVER_RETURNS, "v6.0-rc1"),
            *says("gup/zero-page", GETS_ZERO, "v6.0"),
            *says("vfio/type1", always("hard livelock of qemu"), "v6.0-rc1"),
        ),
    ),
    Claim(
        "C001-24", "001",
        "The condition is better said one thing after the other, and in the end: is it the zero page?",
        LATER, "fails",
        "Then nothing but the zero page may stay: every ordinary page is refused. Said one after the other, with the "
        "zone at the end, it is what 6.0 has.",
        (
            *says(
                "gup/pinnable", always("movable-zero-page-refused", "ordinary-page-refused"),
                "v6.0 +pinnable-in-stages",
            ),
            *says("gup/pinnable", never, "v6.0", "v6.12"),
        ),
        correction="its author says himself that he is not sure",
        design=("pinnable-in-stages",),
    ),
    Claim(
        "C001-25", "001",
        "The loop has no end for pages in CMA that are on no list; to be content when none could be isolated ends it; "
        "but then a page that is isolated for a moment stays pinned in CMA.",
        OF_2025, "holds",
        "All three. Wait, fail or give in: each design is right about two kinds of page, and wrong about one.",
        (
            *says("gup/isolated-page/driver", NEVER_RETURNS, "v6.12 CMA"),
            *says("gup/isolated-page/driver", always("pinned-in-cma"), "v6.14 CMA", "v6.12 +longterm-list-empty CMA"),
            *says("gup/isolated-page", sometimes("pinned-in-cma"), "v6.14 CMA"),
            *says("gup/isolated-page", never, "v6.12 CMA"),
            *says("gup/isolated-page", sometimes("pin-failed-einval"), "v6.12 +longterm-isolation-errno CMA"),
        ),
        design=("longterm-list-empty", "longterm-isolation-errno"),
    ),
)  # fmt: skip
