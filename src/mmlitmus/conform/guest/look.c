// SPDX-License-Identifier: GPL-2.0-only
/* What is seen after a step, in the words of conform/schema.py's Observed; and what kind of machine this is. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "agent.h"

#define MEMTYPE_LIST "/sys/kernel/debug/x86/pat_memtype_list"
#define PRESENT 1UL
#define FRAME 0x000ffffffffff000UL	/* the bits of an entry that hold a frame's address */
#define LEVEL_PMD 3
#define LEVEL_PTE 4
#define HUGE 0x80UL	/* of an entry above the last level: a leaf */
#define HUGE_PAGES 512UL

static int log_fd = -1, oops_fd = -1;

/* -- the page tables and VMAs of a process ------------------------------------------------------------------------ */

static bool walk(const struct place *place, struct probe_walk *at)
{
	at->pid = processes[place->process].pid;
	at->address = (uintptr_t)address_of(place->slot - 'a', place->page);
	return probe_fd >= 0 && at->pid && !ioctl(probe_fd, PROBE_IOC_WALK, at);
}

static void say_entries(const struct place *places, int count)
{
	static const char *const levels[] = { "pgd", "p4d", "pud", "pmd", "pte" };
	struct probe_walk at;

	say_open("entries", '{');
	for (int n = 0; n < count; n++) {
		if (!processes[places[n].process].pid)
			continue;
		if (!walk(&places[n], &at)) {
			say_null(places[n].name);
			continue;
		}
		say_key(places[n].name);
		say("\"%s:0x%llx\"", levels[at.level], (unsigned long long)at.entry);
	}
	say_close('}');
}

static FILE *open_proc(int process, const char *name)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/%s", (int)processes[process].pid, name);
	return fopen(path, "re");
}

#define LETTERS 128

/*
 * The letters of the VMAs that a process's places are in, as smaps has them; "" where there is none. One pass for all
 * of its places: the kernel counts every page of a VMA for this file.
 */
static void find_letters(int process, const struct place *places, int count, char (*letters)[LETTERS])
{
	static char buffer[1 << 16];	/* a system call is dear under emulation, and so is sscanf */
	FILE *file = open_proc(process, "smaps");
	unsigned long first = 0, end = 0;
	char line[512], *flags;
	uintptr_t address;
	int length;

	if (file)
		setvbuf(file, buffer, _IOFBF, sizeof(buffer));
	while (file && first < SLOT_BASE + SLOTS * SLOT_SIZE && fgets(line, sizeof(line), file)) {
		/* a VMA's first line begins with a small letter or a digit, all others with a capital */
		if (*line < 'A' || *line > 'Z') {
			first = strtoul(line, &flags, 16);
			end = strtoul(flags + 1, NULL, 16);
			continue;
		}
		if (*line != 'V' || strncmp(line, "VmFlags:", 8) || end <= SLOT_BASE)
			continue;
		flags = line + 8 + strspn(line + 8, " ");
		for (length = strcspn(flags, "\n"); length && flags[length - 1] == ' '; length--)
			;
		for (int n = 0; n < count; n++) {
			address = (uintptr_t)address_of(places[n].slot - 'a', places[n].page);
			if (places[n].process == process && address >= first && address < end)
				snprintf(letters[n], LETTERS, "%.*s", length, flags);
		}
	}
	if (file)
		fclose(file);
}

static void say_vm_flags(const struct place *places, int count)
{
	static char letters[PLACES][LETTERS];
	bool known[PROCESSES] = { false };
	int n;

	for (n = 0; n < count; n++)
		*letters[n] = '\0';
	say_open("vm_flags", '{');
	for (n = 0; n < count; n++) {
		if (!processes[places[n].process].pid)
			continue;
		if (!known[places[n].process])
			find_letters(places[n].process, places, count, letters);
		known[places[n].process] = true;
		say_string(places[n].name, letters[n]);
	}
	say_close('}');
}

static void say_pagemap(const struct place *places, int count)
{
	FILE *files[PROCESSES] = { NULL };
	const struct place *place;
	uintptr_t address;
	uint64_t entry;
	FILE *file;

	say_open("pagemap", '{');
	for (place = places; place < places + count; place++) {
		if (!processes[place->process].pid)
			continue;
		if (!files[place->process])
			files[place->process] = open_proc(place->process, "pagemap");
		file = files[place->process];
		address = (uintptr_t)address_of(place->slot - 'a', place->page);
		if (file && pread(fileno(file), &entry, sizeof(entry), address / PAGE * sizeof(entry)) == sizeof(entry))
			say_bits(place->name, entry);
		else
			say_null(place->name);
	}
	for (int n = 0; n < PROCESSES; n++)
		if (files[n])
			fclose(files[n]);
	say_close('}');
}

#ifndef MADV_COLD
#define MADV_COLD 20
#endif

/*
 * The pages that this CPU keeps back for the LRU lists are held once more each, until somebody empties its batches.
 * MADV_COLD of any page does (mm/madvise.c, madvise_cold), of this CPU, which is the one that all processes run on.
 */
static void drain(void)
{
	static char *page;

	if (!page)
		page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (page == MAP_FAILED) {
		page = NULL;
		return;
	}
	*(volatile char *)page = 0;
	madvise(page, PAGE, MADV_COLD);
}

/* How often a frame is held and mapped, as the kernel counts. False: nobody can say, or it has no struct page. */
static bool count_frame(uint64_t pfn, struct probe_frame *frame)
{
	memset(frame, 0, sizeof(*frame));
	frame->pfn = pfn;
	return probe_fd >= 0 && !ioctl(probe_fd, PROBE_IOC_FRAME, frame) && frame->valid;
}

static void say_counted(const char *key, const struct probe_frame *frame)
{
	say_open(key, '{');
	say_bits("pfn", frame->pfn);
	say_number("refs", frame->refs);
	say_number("maps", frame->maps);
	say_close('}');
}

/* What a pin got, slot by slot of pages[]; null: the kernel says that it has filled the slot, and has not. */
static void say_pins(const struct result *result)
{
	struct probe_frame frame;

	drain();
	say_open("pins", '[');
	for (int n = 0; n < result->slots; n++) {
		if (result->pfns[n] != PROBE_NO_PFN && count_frame(result->pfns[n], &frame))
			say_counted(NULL, &frame);
		else
			say_null(NULL);
	}
	say_close(']');
}

/* Where the IOVAs are that the program has mapped; null: nowhere. Of a frame without a struct page there are no counts. */
static void say_iovas(void)
{
	struct probe_frame frame;
	uint64_t address;
	char name[32];

	if (probe_fd < 0)
		return;
	drain();
	say_open("iovas", '{');
	for (int slot = 0; slot < IOVA_SLOTS; slot++) {
		for (long page = 0; page < iova_pages(slot); page++) {
			snprintf(name, sizeof(name), "%d+%ld", slot, page);
			if (!find_iova(slot, page, &address)) {
				say_null(name);
			} else if (count_frame(address / PAGE, &frame)) {
				say_counted(name, &frame);
			} else {
				say_open(name, '{');
				say_bits("pfn", address / PAGE);
				say_close('}');
			}
		}
	}
	say_close('}');
}

/* The counts of the frames that places map, once this CPU has no page in hand. */
static void say_frames(const struct place *places, int count)
{
	struct probe_frame frame;
	struct probe_walk at;
	uint64_t pfn;

	drain();
	say_open("frames", '{');
	for (int n = 0; n < count; n++) {
		if (!walk(&places[n], &at) || !(at.entry & PRESENT))
			continue;
		pfn = (at.entry & FRAME) / PAGE;
		if (at.level == LEVEL_PMD && at.entry & HUGE)
			pfn = pfn / HUGE_PAGES * HUGE_PAGES + at.address / PAGE % HUGE_PAGES;
		else if (at.level != LEVEL_PTE)
			continue;
		if (!count_frame(pfn, &frame))
			continue;
		say_counted(places[n].name, &frame);
	}
	say_close('}');
}

#define COUNTED 64	/* pages of a region: programs map its first ones */
#define COUNTED_WIDE 2048	/* and those with huge leaves so many */

/* The same of the first frames of every region, mapped or not: runs of equal ones. Null: nobody can say. */
void say_counts(bool wide)
{
	const long most = wide ? COUNTED_WIDE : COUNTED;
	struct probe_frame first, frame;
	long pages, n, last;

	if (probe_fd < 0) {
		say_null("frames");
		return;
	}
	drain();
	say_open("frames", '[');
	for (int r = 0; r < PROBE_REGIONS; r++) {
		last = (long)regions[r].pages < most ? (long)regions[r].pages : most;
		for (n = 0; n < last; n += pages) {
			pages = 1;
			if (!count_frame(regions[r].pfn + n, &first))
				continue;
			while (n + pages < last && count_frame(regions[r].pfn + n + pages, &frame) &&
			       frame.refs == first.refs && frame.maps == first.maps)
				pages++;
			say_open(NULL, '{');
			say_bits("pfn", first.pfn);
			say_number("pages", pages);
			say_number("refs", first.refs);
			say_number("maps", first.maps);
			say_close('}');
		}
	}
	say_close(']');
}

/* Pages of the process's own, its code and stack, that mlockall() has locked too. */
static long locked_elsewhere(int process)
{
	FILE *file = open_proc(process, "smaps");
	unsigned long first = 0, end = 0;
	char line[512], *rest;
	long pages = 0;

	while (file && fgets(line, sizeof(line), file)) {
		if (*line < 'A' || *line > 'Z') {
			first = strtoul(line, &rest, 16);
			end = strtoul(rest + 1, NULL, 16);
		} else if (!strncmp(line, "VmFlags:", 8) && strstr(line, " lo ") &&
			   (end <= SLOT_BASE || first >= SLOT_BASE + SLOTS * SLOT_SIZE)) {
			pages += (end - first) / PAGE;
		}
	}
	if (file)
		fclose(file);
	return pages;
}

static bool locks_all(const struct program *program)
{
	for (int n = 0; n < program->steps; n++)
		if (program->step[n].verb && program->step[n].verb->perform == lockall_step)
			return true;
	return false;
}

/* VmLck of every process, in pages, of what is the program's. */
static void say_locked(const struct program *program)
{
	bool elsewhere = locks_all(program);
	char name[16], line[256];
	long kilobytes;
	FILE *file;

	say_open("locked", '{');
	for (int n = 0; n < PROCESSES; n++) {
		file = processes[n].pid ? open_proc(n, "status") : NULL;
		while (file && fgets(line, sizeof(line), file)) {
			if (sscanf(line, "VmLck: %ld kB", &kilobytes) != 1)
				continue;
			snprintf(name, sizeof(name), "%d", n);
			say_number(name, kilobytes * 1024 / (long)PAGE - (elsewhere ? locked_elsewhere(n) : 0));
		}
		if (file)
			fclose(file);
	}
	say_close('}');
}

/* -- notifier events ---------------------------------------------------------------------------------------------- */

static void say_events_of(int process)
{
	static const char *const types[PROBE_EVENTS] = {
		"unmap", "clear", "protection-vma", "protection-page", "soft-dirty", "release", "migrate", "exclusive",
		"other"
	};
	static struct probe_events got;
	const struct probe_event *event;
	char name[16];

	snprintf(name, sizeof(name), "%d", process);
	say_open(name, '[');
	do {
		if (ioctl(processes[process].watch, PROBE_IOC_EVENTS, &got))
			break;
		for (unsigned int n = 0; n < got.count; n++) {
			event = &got.events[n];
			/* the process's own stack and data are not the program's */
			if (event->last <= SLOT_BASE || event->first >= SLOT_BASE + SLOTS * SLOT_SIZE)
				continue;
			say_open(NULL, '{');
			say_string("event", event->type < PROBE_EVENTS ? types[event->type] : "other");
			say_bool("end", event->end);
			say_bits("first", event->first);
			say_bits("last", event->last);
			say_close('}');
		}
		if (got.lost) {
			say_open(NULL, '{');
			say_number("lost", got.lost);
			say_close('}');
		}
	} while (got.count == PROBE_EVENTS_AT_ONCE);
	say_close(']');
}

static void say_events(void)
{
	say_open("events", '{');
	for (int n = 0; n < PROCESSES; n++)
		if (processes[n].watch >= 0)
			say_events_of(n);
	say_close('}');
}

/* -- memtypes ----------------------------------------------------------------------------------------------------- */

static bool in_a_region(unsigned long start, unsigned long end)
{
	for (int n = 0; n < PROBE_REGIONS; n++)
		if (start < (regions[n].pfn + regions[n].pages) * PAGE && end > regions[n].pfn * PAGE)
			return true;
	return false;
}

/*
 * In a BAR, but not all of it: the driver itself maps the whole of one when it is first used, and keeps that until the
 * device is closed (drivers/vfio/pci/vfio_pci_rdwr.c, vfio_pci_core_setup_barmap).
 */
static bool in_a_bar(unsigned long start, unsigned long end)
{
	const struct bar *bar;

	for (int n = 0; n < device_count; n++)
		for (bar = devices[n].bars; bar < devices[n].bars + 6; bar++)
			if (bar->size && start < bar->address + bar->size && end > bar->address)
				return end - start < bar->size;
	return false;
}

/* The list's entries that are wanted. Null: nobody can see them. */
static void say_memtypes_in(const char *key, bool (*wanted)(unsigned long start, unsigned long end), FILE *file)
{
	unsigned long start, end;
	char line[256], type[64];

	if (!file) {
		say_null(key);
		return;
	}
	say_open(key, '[');
	while (fgets(line, sizeof(line), file)) {
		if (sscanf(line, "PAT: [mem 0x%lx-0x%lx] %63s", &start, &end, type) != 3 || !wanted(start, end))
			continue;
		say_open(NULL, '{');
		say_bits("start", start);
		say_bits("end", end);
		say_string("type", type);
		say_close('}');
	}
	say_close(']');
	fclose(file);
}

/* The list's entries in the probe's regions, all of them. Null: nobody can see them, or there are no regions. */
void say_memtypes(void)
{
	say_memtypes_in("memtypes", in_a_region, probe_fd < 0 ? NULL : fopen(MEMTYPE_LIST, "re"));
}

/* ... and in the devices' BARs: what another program may have left there. */
void say_bar_memtypes(void)
{
	say_memtypes_in("bar_memtypes", in_a_bar, fopen(MEMTYPE_LIST, "re"));
}

/* -- all of it ---------------------------------------------------------------------------------------------------- */

static void say_name(const char *key, const char *prefix, const char *name, int number)
{
	say_key(key);
	if (name)
		say("\"%s%s\"", prefix, name);
	else
		say("\"%s%d\"", *prefix ? prefix : "E", number);	/* ENOTSUPP and the like: only the kernel names them */
}

static void say_result(const struct result *result)
{
	say_open("result", '{');
	switch (result->how) {
	case NOT_RUN:
		break;
	case OK:
		say_bool("ok", true);
		if (result->has_value)
			say_bits("value", result->value);
		if (result->at)
			say_bits("at", result->at);
		if (result->has_count)
			say_number("count", result->count);
		break;
	case FAILED:
		say_name("errno", "", strerrorname_np(result->number), result->number);
		break;
	case SIGNALLED:
		say_name("signal", "SIG", sigabbrev_np(result->number), result->number);
		say_number("code", result->code);
		break;
	case DIED:
		say_string("died", result->why);
		if (result->killed)
			say_bool("killed", true);
		break;
	}
	say_close('}');
}

void say_observed(const struct program *program, const struct step *step, const struct result *result)
{
	const struct place *places = &program->place[step->first_place];

	say_open("observed", '{');
	if (step->verb->has_result || result->how == DIED)
		say_result(result);
	/* nothing more of a process that hangs: who asks may have to wait for the lock that it holds */
	if (result->how != DIED) {
		if (step->places) {
			say_entries(places, step->places);
			say_vm_flags(places, step->places);
		}
		say_memtypes();
		if (program->want & WANT_PAGEMAP && step->places)
			say_pagemap(places, step->places);
		if (program->want & WANT_FRAMES && step->places)
			say_frames(places, step->places);
		if (program->want & WANT_LOCKED)
			say_locked(program);
		if (program->want & WANT_EVENTS)
			say_events();
		if (step->verb->perform == pin_step && result->how == OK)
			say_pins(result);
		if (dma_pages())
			say_iovas();
	}
	say_close('}');
}

/* -- the kernel's log --------------------------------------------------------------------------------------------- */

/* From here on. Two readers: what one has read, the other has not. */
void start_log(void)
{
	if (log_fd < 0)
		log_fd = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	if (oops_fd < 0)
		oops_fd = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	lseek(log_fd, 0, SEEK_END);
	lseek(oops_fd, 0, SEEK_END);
}

/* The next line that the kernel itself has printed: "PRIORITY,NUMBER,TIME,FLAGS;TEXT" and more lines on the device. */
static bool next_line(int fd, char *text, size_t size)
{
	char record[8192], *from;
	ssize_t got;

	for (;;) {
		got = read(fd, record, sizeof(record) - 1);
		if (got < 0 && errno == EPIPE)
			continue;	/* some were overwritten; the next read goes on after them */
		if (got <= 0)
			return false;
		record[got] = '\0';
		record[strcspn(record, "\n")] = '\0';
		from = strchr(record, ';');
		if (!from || strtoul(record, NULL, 10) >= 8)	/* facility 0 is the kernel */
			continue;
		snprintf(text, size, "%s", from + 1);
		return true;
	}
}

#define LINES 400	/* of an oops without an end, enough */

void say_log(const char *key)
{
	char text[1024];
	int count = 0;

	say_open(key, '[');
	while (next_line(log_fd, text, sizeof(text)))
		if (count++ < LINES)
			say_string(NULL, text);
	say_close(']');
}

bool oopsed(void)
{
	char text[1024];
	bool found = false;

	while (next_line(oops_fd, text, sizeof(text)))
		found = found || strstr(text, "BUG: ") || strstr(text, "kernel BUG") || strstr(text, "Oops: ") ||
			strstr(text, "general protection fault");
	return found;
}

/* -- the machine -------------------------------------------------------------------------------------------------- */

void say_regions(void)
{
	say_open("regions", '[');
	for (int n = 0; n < PROBE_REGIONS; n++) {
		if (!regions[n].pages)
			continue;
		say_open(NULL, '{');
		say_string("name", region_names[n]);
		say_bits("pfn", regions[n].pfn);
		say_number("pages", regions[n].pages);
		say_bool("valid", regions[n].valid);
		if (regions[n].valid)
			say_bool("reserved", regions[n].reserved);
		say_close('}');
	}
	say_close(']');
}

static void say_devices(void)
{
	say_open("devices", '[');
	for (int n = 0; n < device_count; n++) {
		say_open(NULL, '{');
		say_string("name", devices[n].name);
		say_string("pci", devices[n].id);
		say_open("bars", '[');
		for (int bar = 0; bar < 6; bar++) {
			if (!devices[n].bars[bar].size)
				continue;
			say_open(NULL, '{');
			say_number("bar", bar);
			say_number("pages", devices[n].bars[bar].size / PAGE);
			if (devices[n].bars[bar].address)
				say_bits("pfn", devices[n].bars[bar].address / PAGE);
			say_close('}');
		}
		say_close(']');
		say_close('}');
	}
	say_close(']');
}

/* A file's first line as it is; null where this kernel has no such file. */
static void say_setting(const char *key, const char *path)
{
	char text[512];

	if (read_text(path, text, sizeof(text)))
		say_string(key, text);
	else
		say_null(key);
}

/* The value of "NAME : VALUE" in a file, as it is. */
static void say_line(const char *key, const char *path, const char *name)
{
	FILE *file = fopen(path, "re");
	char line[4096], *value;
	bool found = false;

	while (file && !found && fgets(line, sizeof(line), file))
		found = !strncmp(line, name, strlen(name)) && strchr(line, ':');
	if (file)
		fclose(file);
	if (!found) {
		say_null(key);
		return;
	}
	line[strcspn(line, "\n")] = '\0';
	value = strchr(line, ':') + 1;
	say_string(key, value + strspn(value, " \t"));
}

/* The frame that every page of nothing but zeros is, until it is written. */
static void say_zero_frame(void)
{
	struct probe_walk at = { .pid = 0 };
	volatile char *page = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (page == MAP_FAILED)
		return;
	(void)*page;
	at.address = (uintptr_t)page;
	if (probe_fd >= 0 && !ioctl(probe_fd, PROBE_IOC_WALK, &at) && at.level == LEVEL_PTE && at.entry & PRESENT)
		say_bits("zero_pfn", (at.entry & FRAME) / PAGE);
	munmap((void *)page, PAGE);
}

void say_ready(void)
{
	struct utsname names;
	char text[1024];

	uname(&names);
	say_open("ready", '{');
	say_string("release", names.release);
	say_string("version", names.version);
	say_string("command_line", read_text("/proc/cmdline", text, sizeof(text)) ? text : "");
	if (probe_fd >= 0)
		say_string("module", "mmlitmus_probe");
	else
		say_null("module");
	say_zero_frame();
	say_regions();
	say_devices();
	say_open("config", '{');
	say_line("cpu", "/proc/cpuinfo", "model name");
	say_number("cpus", sysconf(_SC_NPROCESSORS_ONLN));
	say_line("memory", "/proc/meminfo", "MemTotal");
	say_line("swap", "/proc/meminfo", "SwapTotal");
	say_setting("numa_nodes", "/sys/devices/system/node/online");
	say_setting("thp", "/sys/kernel/mm/transparent_hugepage/enabled");
	say_setting("numa_balancing", "/proc/sys/kernel/numa_balancing");
	say_setting("thp_shmem", "/sys/kernel/mm/transparent_hugepage/shmem_enabled");
	say_setting("thp_defrag", "/sys/kernel/mm/transparent_hugepage/defrag");
	say_setting("ksm", "/sys/kernel/mm/ksm/run");
	say_setting("fault_around", "/sys/kernel/debug/fault_around_bytes");
	say_setting("randomize", "/proc/sys/kernel/randomize_va_space");
	say_setting("swappiness", "/proc/sys/vm/swappiness");
	say_setting("zswap", "/sys/module/zswap/parameters/enabled");
	say_setting("lru_gen", "/sys/kernel/mm/lru_gen/enabled");
	say_setting("overcommit", "/proc/sys/vm/overcommit_memory");
	say_close('}');
	say_problems();
	say_close('}');
}
