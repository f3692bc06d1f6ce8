// SPDX-License-Identifier: GPL-2.0-only
/*
 * Steps that have the kernel get at the pages of a process: held by the probe
 * module, or by the system calls that move what is in them.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent.h"

#define DISK "/dev/vda"

pid_t whose;

/* A count or -1 with errno. */
static void counted(struct result *result, long got)
{
	ended(result, got >= 0);
	result->has_count = got >= 0;
	result->count = got;
}

/* -- held by the module ------------------------------------------------------------------------------------------- */

static bool is_remote(long variant)
{
	return variant == PROBE_GET_REMOTE || variant == PROBE_PIN_REMOTE;
}

void pin_step(const struct step *step, struct result *result)
{
	struct probe_pin pin = {
		.pid = whose,
		.variant = step->variant,
		.flags = step->flags,
		.hold = step->hold,
		.address = (uintptr_t)address_of(step->slot, step->page),
		.pages = step->pages,
	};

	if (probe_fd < 0) {
		not_run(result, "there is no probe module");
		return;
	}
	if (!is_remote(step->variant) && (whose || step->flags & PROBE_PIN_LOCKED)) {
		not_run(result, "pin: only the remote functions take a process, or locked");
		return;
	}
	if (ioctl(probe_fd, PROBE_IOC_PIN, &pin)) {
		not_run(result, "the probe module does not pin like this on this kernel: %s", strerror(errno));
		return;
	}
	errno = pin.got < 0 ? -pin.got : 0;
	counted(result, pin.got < 0 ? -1 : pin.got);
	result->slots = pin.got < 0 ? 0 : pin.got < PROBE_PIN_PAGES ? pin.got : PROBE_PIN_PAGES;
	memcpy(result->pfns, pin.pfn, sizeof(result->pfns));
}

void unpin_step(const struct step *step, struct result *result)
{
	struct probe_unpin unpin = { .hold = step->hold, .dirty = step->flags };

	if (probe_fd < 0)
		not_run(result, "there is no probe module");
	else
		counted(result, ioctl(probe_fd, PROBE_IOC_UNPIN, &unpin) ? -1 : (long)unpin.released);
}

/* At a program's end: of what its processes left. */
void let_go_of_pages(void)
{
	struct probe_unpin everything = { .all = 1 };

	if (probe_fd >= 0)
		ioctl(probe_fd, PROBE_IOC_UNPIN, &everything);
}

/* -- moved by system calls ---------------------------------------------------------------------------------------- */

static char buffer[MOVED_PAGES * PAGE];

static pid_t pid_of_step(void)
{
	return whose ? whose : getpid();
}

static long through_memory_file(void *at, size_t size, bool write)
{
	char path[32];
	long got;
	int fd, error;

	snprintf(path, sizeof(path), "/proc/%d/mem", (int)pid_of_step());
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return -1;
	got = write ? pwrite(fd, buffer, size, (off_t)at) : pread(fd, buffer, size, (off_t)at);
	error = errno;
	close(fd);
	errno = error;
	return got;
}

/* Without waiting, from one end of a pipe that is large enough; what is in it goes with it. */
static long into_pipe(void *at, size_t size, bool splice)
{
	struct iovec here = { at, size };
	int ends[2], error;
	long got;

	if (pipe2(ends, O_NONBLOCK | O_CLOEXEC))
		return -1;
	fcntl(ends[1], F_SETPIPE_SZ, 2 * (int)sizeof(buffer));
	got = splice ? vmsplice(ends[1], &here, 1, SPLICE_F_NONBLOCK) : write(ends[1], at, size);
	error = errno;
	close(ends[0]);
	close(ends[1]);
	errno = error;
	return got;
}

/* Between the start of the disk and memory, by a device that writes to the pages, or reads them, itself. */
static long past_the_cache(void *at, size_t size, bool write)
{
	int fd = open(DISK, O_RDWR | O_DIRECT | O_CLOEXEC), error;
	long got;

	if (fd < 0)
		return -1;
	got = write ? pwrite(fd, at, size, 0) : pread(fd, at, size, 0);
	error = errno;
	close(fd);
	errno = error;
	return got;
}

/* Who traces another cannot be of the same process: a child that shares this one's memory, so that nothing is copied. */
struct tracer {
	const struct step *step;
	pid_t pid;
	long got;	/* bytes */
	int error;
};

static int trace(void *argument)
{
	struct tracer *tracer = argument;
	const struct step *step = tracer->step;
	long word;
	int status;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	tracer->got = -1;
	tracer->error = 0;
	if (ptrace(PTRACE_SEIZE, tracer->pid, NULL, NULL) || ptrace(PTRACE_INTERRUPT, tracer->pid, NULL, NULL) ||
	    waitpid(tracer->pid, &status, __WALL) != tracer->pid) {
		tracer->error = errno;
		_exit(0);
	}
	for (long page = 0; page < step->pages; page++) {
		char *at = address_of(step->slot, step->page + page);

		errno = 0;
		if (step->transfer == PTRACE_PEEK)
			word = ptrace(PTRACE_PEEKDATA, tracer->pid, at, NULL);
		else
			word = ptrace(PTRACE_POKEDATA, tracer->pid, at, (void *)0x5aUL);
		if (errno && (step->transfer == PTRACE_POKE || word == -1)) {
			tracer->error = errno;
			break;
		}
		tracer->got = (page + 1) * sizeof(word);
	}
	ptrace(PTRACE_DETACH, tracer->pid, NULL, NULL);
	_exit(0);
}

/* A word at the start of each page, until one cannot be had. */
static long by_tracing(const struct step *step)
{
	static char stack[1 << 16] __attribute__((aligned(16)));
	static struct tracer tracer;
	int status;
	pid_t pid;

	tracer.step = step;
	tracer.pid = pid_of_step();
	tracer.error = EIO;
	tracer.got = -1;
	pid = clone(trace, stack + sizeof(stack), CLONE_VM | SIGCHLD, &tracer);
	if (pid < 0)
		return -1;
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	errno = tracer.error;
	return tracer.got;
}

static bool takes_a_process(long transfer)
{
	return transfer <= PTRACE_POKE;
}

void transfer_step(const struct step *step, struct result *result)
{
	void *at = address_of(step->slot, step->page);
	size_t size = step->pages * PAGE;
	struct iovec here = { buffer, size }, there = { at, size };

	if (whose && !takes_a_process(step->transfer)) {
		not_run(result, "transfer: this kind is of the process's own memory");
		return;
	}
	if ((step->transfer == O_DIRECT_READ || step->transfer == O_DIRECT_WRITE) && access(DISK, F_OK)) {
		not_run(result, "there is no disk " DISK);
		return;
	}
	switch ((enum transfer)step->transfer) {
	case PROCESS_VM_READV:
		counted(result, process_vm_readv(pid_of_step(), &here, 1, &there, 1, 0));
		break;
	case PROCESS_VM_WRITEV:
		counted(result, process_vm_writev(pid_of_step(), &here, 1, &there, 1, 0));
		break;
	case PROC_MEM_READ:
		counted(result, through_memory_file(at, size, false));
		break;
	case PROC_MEM_WRITE:
		counted(result, through_memory_file(at, size, true));
		break;
	case PTRACE_PEEK:
	case PTRACE_POKE:
		counted(result, by_tracing(step));
		break;
	case VMSPLICE:
		counted(result, into_pipe(at, size, true));
		break;
	case WRITE_PIPE:
		counted(result, into_pipe(at, size, false));
		break;
	case O_DIRECT_READ:
		counted(result, past_the_cache(at, size, false));
		break;
	case O_DIRECT_WRITE:
		counted(result, past_the_cache(at, size, true));
		break;
	}
}
