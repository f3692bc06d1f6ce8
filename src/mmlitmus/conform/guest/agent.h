/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The lab's agent: takes programs over a line, has processes perform their steps
 * on a real kernel, looks at what became of them, answers in JSON.
 *
 *	agent.c		the conversation, and a program from its begin to its end
 *	words.c		from a line of text to a step, by tables
 *	steps.c		the processes, and what each step does in them
 *	memory.c	what is mapped that is no device's: files and buffers
 *	pages.c		the steps that have the kernel get at a process's pages
 *	devices.c	PCI functions through VFIO
 *	look.c		what is seen after a step
 *	output.c	JSON
 */
#ifndef MMLITMUS_AGENT_H
#define MMLITMUS_AGENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "mmlitmus_probe.h"

#define PAGE 4096UL
/* The model's slots (kernel/machine.py): slot n is here + n times the size. */
#define SLOT_BASE 0x7f0000000000UL
#define SLOT_SIZE 0x1000000UL
#define SLOTS 26
#define SLOT_PAGES ((long)(SLOT_SIZE / PAGE))

#define PROCESSES 16
#define DEVICES 8
#define STEPS 1024
#define PLACES 4096	/* of a whole program */
#define ERROR_SIZE 160
#define PROBE_PATH "/dev/mmlitmus_probe"

#define FILE_PAGES 16	/* of what is mapped that is no device's */
#define MOVED_PAGES PROBE_PIN_PAGES	/* that a transfer takes at most */
/* IOVAs: slot n is at 1M + n times 1M, below what edu can address. */
#define IOVA_SLOTS 16
#define IOVA_PAGES 256L
#define IOVA_SIZE (IOVA_PAGES * PAGE)

enum backing { BACKING_BAR, BACKING_ANONYMOUS, BACKING_PFNMAP, BACKING_FILE, BACKING_UDMABUF, BACKING_DMA_HEAP, BACKINGS };

enum transfer {
	PROCESS_VM_READV, PROCESS_VM_WRITEV, PROC_MEM_READ, PROC_MEM_WRITE, PTRACE_PEEK, PTRACE_POKE, VMSPLICE,
	O_DIRECT_READ, O_DIRECT_WRITE, WRITE_PIPE
};

enum action {
	ACTION_MEMORY_OFF, ACTION_MEMORY_ON, ACTION_D3HOT, ACTION_D0, ACTION_LOW_POWER_ENTER, ACTION_LOW_POWER_EXIT,
	ACTION_RESET, ACTION_READ
};

/* what the probe module is asked for */
enum { CALL_UNMAP, CALL_INSERT, CALL_REMAP };

/* advice that is no madvise */
enum { ADVICE_LOCK = -1, ADVICE_UNLOCK = -2, ADVICE_LOCK_ONFAULT = -3 };

struct step;

/* How an operation ended. */
struct result {
	enum { NOT_RUN, OK, FAILED, SIGNALLED, DIED } how;
	int number;		/* the errno or the signal */
	int code;		/* si_code */
	bool has_value;
	uint64_t value;		/* what a read returned; of a fork, the child's pid */
	uint64_t at;		/* where a mapping went, if not to where it was asked to go */
	bool has_count;
	long count;		/* pages that were got, let go or unmapped; bytes that were moved */
	int slots;		/* of pages[], that a pin says it has filled */
	uint64_t pfns[PROBE_PIN_PAGES];
	bool killed;		/* DIED of a hang: SIGKILL ended it */
	char why[ERROR_SIZE];	/* NOT_RUN: why; DIED: of what */
};

typedef void (*perform_fn)(const struct step *step, struct result *result);

struct field;

struct verb {
	const char *name;
	const struct field *fields;	/* ends with one without a name */
	perform_fn perform;		/* NULL: nothing to do in the process */
	bool has_result;
};

/* A place to look at: a page of a slot of a process. */
struct place {
	int process;
	char slot;
	long page;
	char name[24];
};

/* A step. Which fields mean anything is the verb's business; numbers are those of the tables in words.c. */
struct step {
	const struct verb *verb;
	char error[ERROR_SIZE];		/* not empty: it cannot be run */
	long slot, page, pages;
	long backing, device, bar, region, frame, insert, cache, opened, offset, prot, sharing, flags;
	long new_pages, to;
	long advice, access, child, process, action, call;
	long variant, hold, transfer, iova, what, locked;
	int places;
	int first_place;
};

/* What a program asks to see beyond the rest. */
enum { WANT_PAGEMAP = 1, WANT_LOCKED = 2, WANT_FRAMES = 4, WANT_EVENTS = 8, WANT_WIDE = 16 };

struct program {
	char id[128];
	char error[ERROR_SIZE];		/* not empty: it cannot be run at all */
	long want;
	int steps;
	struct step step[STEPS];
	int places;
	struct place place[PLACES];
};

/* -- words.c -- */
extern const struct verb verbs[];
void start_program(struct program *program, char *words);
void add_step(struct program *program, char *line);
void add_places(struct program *program, struct step *step, char *list);

/* -- steps.c -- */
struct process {
	pid_t pid;	/* 0: not there */
	int watch;	/* the probe's file that hears of its invalidations, or -1 */
};

extern struct process processes[PROCESSES];
extern struct probe_region regions[PROBE_REGIONS];
extern const char *const region_names[PROBE_REGIONS];
extern int probe_fd;	/* -1: there is no module */

void *address_of(long slot, long page);
void find_probe(void);
bool move_regions(long first);
double now(void);
void ended(struct result *result, bool worked);
__attribute__((format(printf, 2, 3))) void not_run(struct result *result, const char *format, ...);
void start_processes(const struct program *program);
bool is_about_another(const struct step *step);
void run_in(int process, const struct step *step, const struct program *program, double limit, struct result *result);
bool stop_processes(double limit);
void map_step(const struct step *step, struct result *result);
void unmap_step(const struct step *step, struct result *result);
void remap_step(const struct step *step, struct result *result);
void protect_step(const struct step *step, struct result *result);
void advise_step(const struct step *step, struct result *result);
void touch_step(const struct step *step, struct result *result);
void fork_step(const struct step *step, struct result *result);
void exit_step(const struct step *step, struct result *result);
void probe_step(const struct step *step, struct result *result);
void clear_step(const struct step *step, struct result *result);
void lockall_step(const struct step *step, struct result *result);
void unlockall_step(const struct step *step, struct result *result);
void limit_step(const struct step *step, struct result *result);

/* -- memory.c -- */
void open_memory(const struct program *program);
int memory_fd(long backing);
const char *memory_name(long backing);

/* -- pages.c -- */
extern pid_t whose;	/* in a process: the one that its step is about; 0 is the process itself */
void pin_step(const struct step *step, struct result *result);
void unpin_step(const struct step *step, struct result *result);
void transfer_step(const struct step *step, struct result *result);
void let_go_of_pages(void);

/* -- devices.c -- */
struct bar {
	uint64_t size;		/* bytes; 0: cannot be mapped */
	uint64_t offset;	/* in the device's file */
	uint64_t address;	/* physical; 0: not known */
};

struct device {
	char name[16], id[16], pci[16];	/* its address is the last */
	int fd;
	uint64_t config;	/* offset of config space in the file */
	struct bar bars[6];
};

extern struct device devices[DEVICES];
extern int device_count;

void find_devices(char **ids, int count);
void reset_devices(void);
void dev_step(const struct step *step, struct result *result);
void dma_step(const struct step *step, struct result *result);
void note_dma(const struct step *step);
long iova_pages(int slot);
bool dma_pages(void);
bool find_iova(int slot, long page, uint64_t *address);
void unmap_iovas(void);

/* -- look.c -- */
void say_ready(void);
void say_regions(void);
void say_memtypes(void);
void say_bar_memtypes(void);
void say_counts(bool wide);
void say_observed(const struct program *program, const struct step *step, const struct result *result);
void start_log(void);
void say_log(const char *key);
bool oopsed(void);

/* -- output.c -- */
extern int port;
extern bool first;	/* nothing has been said yet in the innermost object or list */

void say_begin(void);
void say_end(void);
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
void say_key(const char *key);
void say_open(const char *key, char bracket);
void say_close(char bracket);
void say_string(const char *key, const char *value);
void say_number(const char *key, long value);
void say_bits(const char *key, uint64_t value);
void say_bool(const char *key, bool value);
void say_null(const char *key);
void problem(const char *format, ...) __attribute__((format(printf, 1, 2)));
void say_problems(void);
bool read_text(const char *path, char *to, size_t size);

#endif
