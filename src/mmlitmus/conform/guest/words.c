// SPDX-License-Identifier: GPL-2.0-only
/*
 * From a line such as "unmap slot=a page=1 pages=3" to a step.
 *
 * The tables are the language: the same verbs, fields, defaults and words as in
 * conform/schema.py, and a test holds the one to the other.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <linux/vfio.h>

#include "agent.h"

/* younger than some C libraries that this is built with */
#ifndef MADV_COLD
#define MADV_COLD 20
#define MADV_PAGEOUT 21
#endif
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#define MADV_GUARD_REMOVE 103
#endif
#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif

struct word {
	const char *name;
	long value;
};

enum kind {
	SLOT,		/* a letter */
	INDEX,		/* a number, 0 or more */
	COUNT,		/* a number, 1 or more */
	BAR,		/* 0 to 5 */
	PROT,		/* letters of rwx */
	PROCESS,	/* a process's number; empty for the current one */
	FEW,		/* pages, 1 to what a pin takes */
	REGION,		/* a region of the probe module's, by name; empty for none */
	ONE_OF,		/* a word of a table */
	ANY_OF,		/* words of a table with commas between them, or none */
};

struct field {
	const char *name;
	enum kind kind;
	size_t offset;
	const char *missing;	/* what it is when it is left out; NULL: it may not be */
	const struct word *words;
};

#define AT(member) offsetof(struct step, member)
#define NO_SLOT (-1)
#define NO_PROCESS (-1)

static const struct word backings[] = {
	{ "bar", BACKING_BAR },
	{ "anonymous", BACKING_ANONYMOUS },
	{ "pfnmap", BACKING_PFNMAP },
	{ "file", BACKING_FILE },
	{ "udmabuf", BACKING_UDMABUF },
	{ "dma_heap", BACKING_DMA_HEAP },
	{ NULL }
};

static const struct word inserts[] = {
	{ "remap", PROBE_REMAP },
	{ "remap_refill", PROBE_REMAP_REFILL },
	{ "remap_partial", PROBE_REMAP_PARTIAL },
	{ "remap_fault", PROBE_REMAP_FAULT },
	{ "fault_pfn", PROBE_FAULT_PFN },
	{ "fault_pfn_prot", PROBE_FAULT_PFN_PROT },
	{ "huge", PROBE_HUGE },
	{ "mixed", PROBE_MIXED },
	{ "none", PROBE_NONE },
	{ "insert_page", PROBE_INSERT_PAGE },
	{ "fault_page", PROBE_FAULT_PAGE },
	{ NULL }
};

static const struct word caches[] = {
	{ "", PROBE_CACHE_DEFAULT },
	{ "wc", PROBE_CACHE_WC },
	{ "uc-", PROBE_CACHE_UC_MINUS },
	{ "uc", PROBE_CACHE_UC },
	{ "wt", PROBE_CACHE_WT },
	{ "wp", PROBE_CACHE_WP },
	{ NULL }
};

static const struct word opened[] = {
	{ "rw", 1 },
	{ "r", 0 },
	{ NULL }
};

static const struct word sharings[] = {
	{ "shared", MAP_SHARED },
	{ "private", MAP_PRIVATE },
	{ NULL }
};

static const struct word map_flags[] = {
	{ "fixed", MAP_FIXED },
	{ "fixed_noreplace", MAP_FIXED_NOREPLACE },
	{ "locked", MAP_LOCKED },
	{ "populate", MAP_POPULATE },
	{ NULL }
};

static const struct word remap_flags[] = {
	{ "maymove", MREMAP_MAYMOVE },
	{ "fixed", MREMAP_FIXED },
	{ "dontunmap", MREMAP_DONTUNMAP },
	{ NULL }
};

static const struct word advice[] = {
	{ "normal", MADV_NORMAL },
	{ "random", MADV_RANDOM },
	{ "sequential", MADV_SEQUENTIAL },
	{ "willneed", MADV_WILLNEED },
	{ "dontneed", MADV_DONTNEED },
	{ "free", MADV_FREE },
	{ "dontfork", MADV_DONTFORK },
	{ "dofork", MADV_DOFORK },
	{ "dontdump", MADV_DONTDUMP },
	{ "dodump", MADV_DODUMP },
	{ "wipeonfork", MADV_WIPEONFORK },
	{ "cold", MADV_COLD },
	{ "pageout", MADV_PAGEOUT },
	{ "populate_read", MADV_POPULATE_READ },
	{ "populate_write", MADV_POPULATE_WRITE },
	{ "dontneed_locked", MADV_DONTNEED_LOCKED },
	{ "mergeable", MADV_MERGEABLE },
	{ "hugepage", MADV_HUGEPAGE },
	{ "nohugepage", MADV_NOHUGEPAGE },
	{ "unmergeable", MADV_UNMERGEABLE },
	{ "keeponfork", MADV_KEEPONFORK },
	{ "remove", MADV_REMOVE },
	{ "collapse", MADV_COLLAPSE },
	{ "guard_install", MADV_GUARD_INSTALL },
	{ "guard_remove", MADV_GUARD_REMOVE },
	{ "lock", ADVICE_LOCK },
	{ "unlock", ADVICE_UNLOCK },
	{ "lock_onfault", ADVICE_LOCK_ONFAULT },
	{ NULL }
};

static const struct word accesses[] = {
	{ "read", 0 },
	{ "write", 1 },
	{ NULL }
};

static const struct word actions[] = {
	{ "memory_off", ACTION_MEMORY_OFF },
	{ "memory_on", ACTION_MEMORY_ON },
	{ "d3hot", ACTION_D3HOT },
	{ "d0", ACTION_D0 },
	{ "low_power_enter", ACTION_LOW_POWER_ENTER },
	{ "low_power_exit", ACTION_LOW_POWER_EXIT },
	{ "reset", ACTION_RESET },
	{ "read", ACTION_READ },
	{ NULL }
};

static const struct word calls[] = {
	{ "unmap_mapping_range", CALL_UNMAP },
	{ "insert_pfn", CALL_INSERT },
	{ "remap_pfn_range", CALL_REMAP },
	{ NULL }
};

static const struct word variants[] = {
	{ "get_user_pages", PROBE_GET },
	{ "get_user_pages_fast", PROBE_GET_FAST },
	{ "get_user_pages_fast_only", PROBE_GET_FAST_ONLY },
	{ "get_user_pages_remote", PROBE_GET_REMOTE },
	{ "get_user_pages_unlocked", PROBE_GET_UNLOCKED },
	{ "pin_user_pages", PROBE_PIN },
	{ "pin_user_pages_fast", PROBE_PIN_FAST },
	{ "pin_user_pages_remote", PROBE_PIN_REMOTE },
	{ "pin_user_pages_unlocked", PROBE_PIN_UNLOCKED },
	{ NULL }
};

static const struct word pin_flags[] = {
	{ "write", PROBE_PIN_WRITE },
	{ "force", PROBE_PIN_FORCE },
	{ "longterm", PROBE_PIN_LONGTERM },
	{ "nowait", PROBE_PIN_NOWAIT },
	{ "nofault", PROBE_PIN_NOFAULT },
	{ "dump", PROBE_PIN_DUMP },
	{ "locked", PROBE_PIN_LOCKED },
	{ NULL }
};

static const struct word unpin_flags[] = {
	{ "dirty", 1 },
	{ NULL }
};

static const struct word transfers[] = {
	{ "process_vm_readv", PROCESS_VM_READV },
	{ "process_vm_writev", PROCESS_VM_WRITEV },
	{ "proc_mem_read", PROC_MEM_READ },
	{ "proc_mem_write", PROC_MEM_WRITE },
	{ "ptrace_peek", PTRACE_PEEK },
	{ "ptrace_poke", PTRACE_POKE },
	{ "vmsplice", VMSPLICE },
	{ "o_direct_read", O_DIRECT_READ },
	{ "o_direct_write", O_DIRECT_WRITE },
	{ "write_pipe", WRITE_PIPE },
	{ NULL }
};

static const struct word dma_actions[] = {
	{ "map", 1 },
	{ "unmap", 0 },
	{ NULL }
};

static const struct word dma_prots[] = {
	{ "", 0 },
	{ "r", VFIO_DMA_MAP_FLAG_READ },
	{ "w", VFIO_DMA_MAP_FLAG_WRITE },
	{ "rw", VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE },
	{ NULL }
};

/* what the kernel takes for each in clear_refs */
static const struct word cleared[] = {
	{ "referenced", 1 },
	{ "referenced_anonymous", 2 },
	{ "referenced_mapped", 3 },
	{ "soft_dirty", 4 },
	{ NULL }
};

static const struct word lockall_flags[] = {
	{ "current", MCL_CURRENT },
	{ "future", MCL_FUTURE },
	{ "onfault", MCL_ONFAULT },
	{ NULL }
};

static const struct word wants[] = {
	{ "pagemap", WANT_PAGEMAP },
	{ "locked", WANT_LOCKED },
	{ "frames", WANT_FRAMES },
	{ "events", WANT_EVENTS },
	{ "wide", WANT_WIDE },
	{ NULL }
};

static const struct field map_fields[] = {
	{ "slot", SLOT, AT(slot), NULL },
	{ "page", INDEX, AT(page), "0" },
	{ "pages", COUNT, AT(pages), NULL },
	{ "backing", ONE_OF, AT(backing), "bar", backings },
	{ "device", INDEX, AT(device), "0" },
	{ "bar", BAR, AT(bar), "0" },
	{ "region", REGION, AT(region), "" },
	{ "frame", INDEX, AT(frame), "0" },
	{ "insert", ONE_OF, AT(insert), "remap", inserts },
	{ "cache", ONE_OF, AT(cache), "", caches },
	{ "opened", ONE_OF, AT(opened), "rw", opened },
	{ "offset", INDEX, AT(offset), "0" },
	{ "prot", PROT, AT(prot), "rw" },
	{ "sharing", ONE_OF, AT(sharing), "shared", sharings },
	{ "flags", ANY_OF, AT(flags), "", map_flags },
	{ NULL }
};

static const struct field unmap_fields[] = {
	{ "slot", SLOT, AT(slot), NULL },
	{ "page", INDEX, AT(page), "0" },
	{ "pages", COUNT, AT(pages), NULL },
	{ NULL }
};

static const struct field remap_fields[] = {
	{ "slot", SLOT, AT(slot), NULL },
	{ "page", INDEX, AT(page), "0" },
	{ "pages", INDEX, AT(pages), NULL },
	{ "new_pages", INDEX, AT(new_pages), NULL },
	{ "to", SLOT, AT(to), "" },
	{ "flags", ANY_OF, AT(flags), "", remap_flags },
	{ NULL }
};

static const struct field protect_fields[] = {
	{ "slot", SLOT, AT(slot), NULL },
	{ "page", INDEX, AT(page), "0" },
	{ "pages", COUNT, AT(pages), NULL },
	{ "prot", PROT, AT(prot), NULL },
	{ NULL }
};

static const struct field advise_fields[] = {
	{ "slot", SLOT, AT(slot), NULL },
	{ "page", INDEX, AT(page), "0" },
	{ "pages", COUNT, AT(pages), NULL },
	{ "advice", ONE_OF, AT(advice), NULL, advice },
	{ NULL }
};

static const struct field touch_fields[] = {
	{ "slot", SLOT, AT(slot), NULL },
	{ "page", INDEX, AT(page), "0" },
	{ "access", ONE_OF, AT(access), "read", accesses },
	{ NULL }
};

static const struct field fork_fields[] = {
	{ "child", COUNT, AT(child), NULL },
	{ NULL }
};

static const struct field switch_fields[] = {
	{ "process", INDEX, AT(process), NULL },
	{ NULL }
};

static const struct field exit_fields[] = {
	{ NULL }
};

static const struct field dev_fields[] = {
	{ "action", ONE_OF, AT(action), NULL, actions },
	{ "device", INDEX, AT(device), "0" },
	{ "page", INDEX, AT(page), "0" },
	{ NULL }
};

static const struct field probe_fields[] = {
	{ "call", ONE_OF, AT(call), NULL, calls },
	{ "offset", INDEX, AT(offset), "0" },
	{ "pages", COUNT, AT(pages), NULL },
	{ "slot", SLOT, AT(slot), "" },
	{ "page", INDEX, AT(page), "0" },
	{ NULL }
};

static const struct field pin_fields[] = {
	{ "slot", SLOT, AT(slot), NULL },
	{ "page", INDEX, AT(page), "0" },
	{ "pages", FEW, AT(pages), NULL },
	{ "variant", ONE_OF, AT(variant), NULL, variants },
	{ "flags", ANY_OF, AT(flags), "", pin_flags },
	{ "process", PROCESS, AT(process), "" },
	{ "hold", INDEX, AT(hold), "0" },
	{ NULL }
};

static const struct field unpin_fields[] = {
	{ "hold", INDEX, AT(hold), "0" },
	{ "flags", ANY_OF, AT(flags), "", unpin_flags },
	{ NULL }
};

static const struct field transfer_fields[] = {
	{ "kind", ONE_OF, AT(transfer), NULL, transfers },
	{ "slot", SLOT, AT(slot), NULL },
	{ "page", INDEX, AT(page), "0" },
	{ "pages", FEW, AT(pages), "1" },
	{ "process", PROCESS, AT(process), "" },
	{ NULL }
};

static const struct field dma_fields[] = {
	{ "action", ONE_OF, AT(action), NULL, dma_actions },
	{ "iova", INDEX, AT(iova), "0" },
	{ "offset", INDEX, AT(offset), "0" },
	{ "pages", COUNT, AT(pages), NULL },
	{ "slot", SLOT, AT(slot), "" },
	{ "page", INDEX, AT(page), "0" },
	{ "prot", ONE_OF, AT(prot), "rw", dma_prots },
	{ NULL }
};

static const struct field clear_fields[] = {
	{ "what", ONE_OF, AT(what), "soft_dirty", cleared },
	{ NULL }
};

static const struct field limit_fields[] = {
	{ "locked", INDEX, AT(locked), NULL },
	{ NULL }
};

static const struct field lockall_fields[] = {
	{ "flags", ANY_OF, AT(flags), "", lockall_flags },
	{ NULL }
};

static const struct field unlockall_fields[] = {
	{ NULL }
};

static const struct field observe_fields[] = {
	{ NULL }
};

const struct verb verbs[] = {
	{ "map", map_fields, map_step, true },
	{ "unmap", unmap_fields, unmap_step, true },
	{ "remap", remap_fields, remap_step, true },
	{ "protect", protect_fields, protect_step, true },
	{ "advise", advise_fields, advise_step, true },
	{ "touch", touch_fields, touch_step, true },
	{ "fork", fork_fields, fork_step, true },
	{ "switch", switch_fields, NULL, false },
	{ "exit", exit_fields, exit_step, false },
	{ "dev", dev_fields, dev_step, true },
	{ "probe", probe_fields, probe_step, true },
	{ "pin", pin_fields, pin_step, true },
	{ "unpin", unpin_fields, unpin_step, true },
	{ "transfer", transfer_fields, transfer_step, true },
	{ "dma", dma_fields, dma_step, true },
	{ "clear", clear_fields, clear_step, true },
	{ "limit", limit_fields, limit_step, true },
	{ "lockall", lockall_fields, lockall_step, true },
	{ "unlockall", unlockall_fields, unlockall_step, true },
	{ "observe", observe_fields, NULL, false },
	{ NULL }
};

/* -- reading ------------------------------------------------------------------------------------------------------ */

__attribute__((format(printf, 2, 3)))
static void refuse(struct step *step, const char *format, ...)
{
	va_list arguments;

	if (*step->error)
		return;	/* the first error is the one to hear of */
	va_start(arguments, format);
	vsnprintf(step->error, sizeof(step->error), format, arguments);
	va_end(arguments);
}

static bool number(const char *text, long *value)
{
	char *end;

	errno = 0;
	*value = strtol(text, &end, 10);
	return *text >= '0' && *text <= '9' && !*end && !errno;
}

static bool one_of(const char *text, const struct word *words, long *value)
{
	for (; words->name; words++) {
		if (!strcmp(text, words->name)) {
			*value = words->value;
			return true;
		}
	}
	return false;
}

static bool any_of(const char *text, const struct word *words, long *value)
{
	char copy[256], *rest = NULL, *name;
	long bit;

	*value = 0;
	if (strlen(text) >= sizeof(copy))
		return false;
	strcpy(copy, text);
	for (name = strtok_r(copy, ",", &rest); name; name = strtok_r(NULL, ",", &rest)) {
		if (!one_of(name, words, &bit))
			return false;
		*value |= bit;
	}
	return true;
}

static bool protection(const char *text, long *value)
{
	static const struct word letters[] = {
		{ "", PROT_NONE }, { "r", PROT_READ }, { "w", PROT_WRITE }, { "x", PROT_EXEC },
		{ "rw", PROT_READ | PROT_WRITE }, { "rx", PROT_READ | PROT_EXEC }, { "wx", PROT_WRITE | PROT_EXEC },
		{ "rwx", PROT_READ | PROT_WRITE | PROT_EXEC }, { NULL }
	};

	return one_of(text, letters, value);
}

static bool slot(const char *text, bool may_be_none, long *value)
{
	*value = NO_SLOT;
	if (!*text)
		return may_be_none;
	*value = *text - 'a';
	return *text >= 'a' && *text <= 'z' && !text[1];
}

static bool region(const char *text, long *value)
{
	for (*value = 0; *value < PROBE_REGIONS; ++*value)
		if (!strcmp(text, region_names[*value]) && regions[*value].pages)
			return true;
	*value = -1;
	return !*text;
}

static bool read_field(const struct field *field, const char *text, long *value)
{
	switch (field->kind) {
	case SLOT:
		return slot(text, field->missing, value);
	case INDEX:
		return number(text, value);
	case COUNT:
		return number(text, value) && *value > 0;
	case BAR:
		return number(text, value) && *value < 6;
	case FEW:
		return number(text, value) && *value > 0 && *value <= MOVED_PAGES;
	case PROCESS:
		*value = NO_PROCESS;
		return !*text || number(text, value);
	case PROT:
		return protection(text, value);
	case REGION:
		return region(text, value);
	case ONE_OF:
		return one_of(text, field->words, value);
	case ANY_OF:
		return any_of(text, field->words, value);
	}
	return false;
}

static void set_field(struct step *step, const struct field *field, const char *text)
{
	long value;

	if (!read_field(field, text, &value))
		refuse(step, "%s: %s=%.40s is not known here", step->verb->name, field->name, text);
	else
		*(long *)((char *)step + field->offset) = value;
}

/* Beyond a slot is another one, and far beyond it the agent's own memory. */
static void check_room(struct step *step)
{
	long pages = step->pages > step->new_pages ? step->pages : step->new_pages;

	if (step->page >= SLOT_PAGES || pages > SLOT_PAGES - step->page)
		refuse(step, "%s: a slot has %ld pages", step->verb->name, SLOT_PAGES);
	if (step->offset > LONG_MAX / (long)PAGE - SLOT_PAGES || step->frame > LONG_MAX / (long)PAGE)
		refuse(step, "%s: offset or frame is past every file", step->verb->name);
	if (step->iova >= IOVA_SLOTS || (step->verb->perform == dma_step && step->pages > IOVA_PAGES - step->offset))
		refuse(step, "%s: there are %d slots of IOVAs, of %ld pages", step->verb->name, IOVA_SLOTS, IOVA_PAGES);
	if (step->locked > LONG_MAX / (long)PAGE || step->hold > INT_MAX)
		refuse(step, "%s: a number is too large", step->verb->name);
}

static void read_words(struct program *program, struct step *step, char *rest)
{
	const struct field *field;
	uint64_t given = 0;
	char *word, *value;

	for (field = step->verb->fields; field->name; field++)
		if (field->missing)
			set_field(step, field, field->missing);
	while ((word = strtok_r(NULL, " ", &rest))) {
		value = strchr(word, '=');
		if (!value) {
			refuse(step, "%s: %.40s is no field=value", step->verb->name, word);
			continue;
		}
		*value++ = '\0';
		if (!strcmp(word, "places")) {
			add_places(program, step, value);
			continue;
		}
		for (field = step->verb->fields; field->name && strcmp(field->name, word); field++)
			;
		if (!field->name) {
			refuse(step, "%s has no field %.40s", step->verb->name, word);
			continue;
		}
		given |= 1ULL << (field - step->verb->fields);
		set_field(step, field, value);
	}
	for (field = step->verb->fields; field->name; field++)
		if (!field->missing && !(given & 1ULL << (field - step->verb->fields)))
			refuse(step, "%s: the field %s is missing", step->verb->name, field->name);
	check_room(step);
}

/* A line that makes no sense is a step all the same: it counts, and is answered with what is wrong with it. */
void add_step(struct program *program, char *line)
{
	struct step *step = &program->step[program->steps];
	const struct verb *verb;
	char *rest = NULL, *name;

	if (program->steps == STEPS)
		return;	/* the last step says that there were too many */
	memset(step, 0, sizeof(*step));
	step->to = NO_SLOT;
	step->region = -1;
	step->first_place = program->places;
	if (++program->steps == STEPS) {
		refuse(step, "a program has less than %d steps", STEPS);
		return;
	}
	name = strtok_r(line, " ", &rest);
	for (verb = verbs; verb->name && strcmp(verb->name, name ? name : ""); verb++)
		;
	if (!verb->name) {
		refuse(step, "there is no operation %.40s", name ? name : "without a name");
		return;
	}
	step->verb = verb;
	read_words(program, step, rest);
}

void add_places(struct program *program, struct step *step, char *list)
{
	char *rest = NULL, *name;
	struct place *place;
	int size;

	for (name = strtok_r(list, ",", &rest); name; name = strtok_r(NULL, ",", &rest)) {
		if (program->places == PLACES) {
			refuse(step, "a program has at most %d places", PLACES);
			return;
		}
		place = &program->place[program->places];
		if (strlen(name) >= sizeof(place->name) ||
		    sscanf(name, "%d:%c%ld%n", &place->process, &place->slot, &place->page, &size) != 3 || name[size] ||
		    place->process < 0 || place->process >= PROCESSES || place->slot < 'a' || place->slot > 'z' ||
		    place->page < 0 || place->page >= SLOT_PAGES) {
			refuse(step, "%.40s is no place such as 0:a2", name);
			return;
		}
		strcpy(place->name, name);
		program->places++;
		step->places++;
	}
}

/* "ID want=pagemap,events"; there may be blanks in an ID, but no "=": what else may be asked for is not known here. */
void start_program(struct program *program, char *words)
{
	char *want = strstr(words, " want=");
	size_t size;

	if (want)
		*want = '\0';
	for (size = strlen(words); size && words[size - 1] == ' '; size--)
		words[size - 1] = '\0';
	program->steps = 0;
	program->places = 0;
	program->want = 0;
	*program->error = '\0';
	snprintf(program->id, sizeof(program->id), "%s", words);
	if (!size || size >= sizeof(program->id))
		snprintf(program->error, ERROR_SIZE, "a program has a name of less than %zu bytes", sizeof(program->id));
	else if (strchr(words, '='))
		snprintf(program->error, ERROR_SIZE, "%.60s: only want= is known here", words);
	else if (want && !any_of(want + strlen(" want="), wants, &program->want))
		snprintf(program->error, ERROR_SIZE, "want=%.60s is not known here", want + strlen(" want="));
}
