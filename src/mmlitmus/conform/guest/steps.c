// SPDX-License-Identifier: GPL-2.0-only
/*
 * The processes of a program, and what a step does in one.
 *
 * Each process is a child of the agent's, those that a step forked too (by
 * CLONE_PARENT): so the agent hears of every death at once. A process waits for
 * the number of a step, performs it, answers with its result. All else, the
 * agent does from outside, by the process's pid.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <linux/capability.h>

#include "agent.h"

#define STORED 0x5a	/* what a store writes */
#define POLL_MS 2	/* how soon a death without an answer is noticed */

struct process processes[PROCESSES];
struct probe_region regions[PROBE_REGIONS];
const char *const region_names[PROBE_REGIONS] = { "reserved", "bar", "hole", "ram" };
int probe_fd = -1;

static long moved;	/* pages that the device regions begin after their first */

static struct { int agent, process; } lines[PROCESSES];
static int self;	/* in a process: which one */

double now(void)
{
	struct timespec at;

	clock_gettime(CLOCK_MONOTONIC, &at);
	return at.tv_sec + at.tv_nsec / 1e9;
}

void *address_of(long slot, long page)
{
	return (void *)(SLOT_BASE + slot * SLOT_SIZE + page * PAGE);
}

void find_probe(void)
{
	struct probe_info info;

	probe_fd = open(PROBE_PATH, O_RDWR | O_CLOEXEC);
	if (probe_fd < 0)
		return;
	if (ioctl(probe_fd, PROBE_IOC_INFO, &info) || info.version != PROBE_VERSION) {
		problem("%s is of another version than this agent", PROBE_PATH);
		close(probe_fd);
		probe_fd = -1;
		return;
	}
	for (int n = 0; n < PROBE_REGIONS; n++) {
		regions[n].index = n;
		if (ioctl(probe_fd, PROBE_IOC_REGION, &regions[n]))
			problem("%s does not tell where its region %s is", PROBE_PATH, region_names[n]);
	}
}

/*
 * Have the regions of device memory begin at this page: programs then map other frames than those before them, and meet
 * nothing that is left of theirs. The region of RAM stays where it is, there is little of it.
 */
bool move_regions(long first)
{
	for (int n = 0; n < PROBE_REGIONS; n++)
		if (n != PROBE_REGION_RAM && regions[n].pages && (long)regions[n].pages + moved <= first)
			return false;
	for (int n = 0; n < PROBE_REGIONS; n++) {
		if (n == PROBE_REGION_RAM || !regions[n].pages)
			continue;
		regions[n].pfn += first - moved;
		regions[n].pages -= first - moved;
	}
	moved = first;
	return true;
}

/* -- results ------------------------------------------------------------------------------------------------------ */

void not_run(struct result *result, const char *format, ...)
{
	va_list arguments;

	result->how = NOT_RUN;
	va_start(arguments, format);
	vsnprintf(result->why, sizeof(result->why), format, arguments);
	va_end(arguments);
}

/* A system call has come back; call it before anything else can change errno. */
void ended(struct result *result, bool worked)
{
	result->how = worked ? OK : FAILED;
	result->number = worked ? 0 : errno;
}

/* A mapping that is somewhere else than where it was wanted is worth a word. */
static void mapped(struct result *result, void *got, void *wanted)
{
	ended(result, got != MAP_FAILED);
	if (result->how == OK && got != wanted)
		result->at = (uintptr_t)got;
}

/* -- steps: each is performed by the process itself --------------------------------------------------------------- */

static int open_region(const struct step *step, struct result *result)
{
	struct probe_fill fill = {
		.region = step->region,
		.insert = step->insert,
		.cache = step->cache,
		.frame = step->frame - step->offset + (step->region == PROBE_REGION_RAM ? 0 : moved),
	};
	int fd;

	if (probe_fd < 0 || step->region < 0) {
		not_run(result, "there is no such region of a probe module");
		return -1;
	}
	if ((step->insert == PROBE_INSERT_PAGE || step->insert == PROBE_FAULT_PAGE) &&
	    step->region != PROBE_REGION_RAM) {
		not_run(result, "only pages of the region ram are mapped like this");
		return -1;
	}
	if (step->frame + step->pages > (long)regions[step->region].pages) {
		not_run(result, "region %s has %ld pages, too few", region_names[step->region],
			(long)regions[step->region].pages);
		return -1;
	}
	fd = open(PROBE_PATH, (step->opened ? O_RDWR : O_RDONLY) | O_CLOEXEC);
	if (fd < 0 || ioctl(fd, PROBE_IOC_FILL, &fill)) {
		not_run(result, "the probe module does not map like this on this kernel: %s", strerror(errno));
		if (fd >= 0)
			close(fd);
		return -1;
	}
	return fd;
}

void map_step(const struct step *step, struct result *result)
{
	void *at = address_of(step->slot, step->page);
	int flags = step->sharing | step->flags, fd = -1;
	off_t offset = step->offset * PAGE;
	const struct bar *bar;

	if (step->backing == BACKING_ANONYMOUS) {
		flags |= MAP_ANONYMOUS;
		offset = 0;
	} else if (step->backing == BACKING_BAR) {
		bar = step->device < device_count ? &devices[step->device].bars[step->bar] : NULL;
		if (!bar || !bar->size) {
			not_run(result, "there is no device %ld with a BAR %ld to map", step->device, step->bar);
			return;
		}
		offset += bar->offset;
		fd = devices[step->device].fd;
	} else if (step->backing == BACKING_PFNMAP) {
		fd = open_region(step, result);
		if (fd < 0)
			return;
	} else {
		fd = memory_fd(step->backing);
		if (fd < 0) {
			not_run(result, "this kernel has no %s to map", memory_name(step->backing));
			return;
		}
	}
	mapped(result, mmap(at, step->pages * PAGE, step->prot, flags, fd, offset), at);
	if (step->backing == BACKING_PFNMAP)
		close(fd);	/* the mapping keeps it */
}

void unmap_step(const struct step *step, struct result *result)
{
	ended(result, !munmap(address_of(step->slot, step->page), step->pages * PAGE));
}

void remap_step(const struct step *step, struct result *result)
{
	void *from = address_of(step->slot, step->page);
	void *to = step->to < 0 ? from : address_of(step->to, 0);

	if (step->flags & MREMAP_FIXED && step->to < 0)
		not_run(result, "remap: fixed wants a slot to go to");
	else
		mapped(result, mremap(from, step->pages * PAGE, step->new_pages * PAGE, step->flags, to), to);
}

void protect_step(const struct step *step, struct result *result)
{
	ended(result, !mprotect(address_of(step->slot, step->page), step->pages * PAGE, step->prot));
}

void advise_step(const struct step *step, struct result *result)
{
	void *at = address_of(step->slot, step->page);
	size_t size = step->pages * PAGE;

	if (step->advice == ADVICE_LOCK)
		ended(result, !mlock(at, size));
	else if (step->advice == ADVICE_UNLOCK)
		ended(result, !munlock(at, size));
	else if (step->advice == ADVICE_LOCK_ONFAULT)
		ended(result, !mlock2(at, size, MLOCK_ONFAULT));
	else
		ended(result, !madvise(at, size, step->advice));
}

static sigjmp_buf back;
static volatile sig_atomic_t touching, signal_number, signal_code;

static void caught(int number, siginfo_t *info, void *context)
{
	(void)context;
	if (!touching) {
		signal(number, SIG_DFL);	/* the process's own mistake: it dies of it at once */
		return;
	}
	signal_number = number;
	signal_code = info->si_code;
	siglongjmp(back, 1);
}

static void catch_signals(void)
{
	static char stack[1 << 16];
	const stack_t other = { .ss_sp = stack, .ss_size = sizeof(stack) };
	const struct sigaction action = { .sa_sigaction = caught, .sa_flags = SA_SIGINFO | SA_ONSTACK };

	sigaltstack(&other, NULL);
	sigaction(SIGSEGV, &action, NULL);
	sigaction(SIGBUS, &action, NULL);
}

void touch_step(const struct step *step, struct result *result)
{
	volatile uint32_t *at = address_of(step->slot, step->page);

	if (sigsetjmp(back, 1)) {
		touching = 0;
		result->how = SIGNALLED;
		result->number = signal_number;
		result->code = signal_code;
		return;
	}
	touching = 1;
	if (step->access)
		*at = STORED;
	else
		result->value = *at;
	touching = 0;
	result->how = OK;
	result->has_value = !step->access;
}

void fork_step(const struct step *step, struct result *result)
{
	long pid = syscall(SYS_clone, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0);

	if (!pid) {
		self = step->child;
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		return;
	}
	ended(result, pid > 0);
	result->value = pid;
}

void exit_step(const struct step *step, struct result *result)
{
	(void)step;
	(void)result;
	_exit(0);
}

void probe_step(const struct step *step, struct result *result)
{
	const struct probe_range range = { .page = step->offset, .pages = step->pages };
	const struct probe_put put = {
		.address = step->slot < 0 ? 0 : (uintptr_t)address_of(step->slot, step->page),
		.pages = step->pages,
		.remap = step->call == CALL_REMAP,
	};

	if (probe_fd < 0)
		not_run(result, "there is no probe module");
	else if (step->call == CALL_UNMAP)
		ended(result, !ioctl(probe_fd, PROBE_IOC_UNMAP, &range));
	else
		ended(result, !ioctl(probe_fd, PROBE_IOC_PUT, &put));
}

/* -- what a process is -------------------------------------------------------------------------------------------- */

void clear_step(const struct step *step, struct result *result)
{
	char text[16];
	int fd = open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC), error = 0;

	if (fd < 0) {
		not_run(result, "there is no /proc/self/clear_refs");
		return;
	}
	snprintf(text, sizeof(text), "%ld", step->what);
	if (write(fd, text, strlen(text)) < 0)
		error = errno;
	close(fd);
	errno = error;
	ended(result, !error);
}

/* All of the process's memory, what it has beside the program's too. */
void lockall_step(const struct step *step, struct result *result)
{
	ended(result, !mlockall(step->flags));
}

void unlockall_step(const struct step *step, struct result *result)
{
	(void)step;
	ended(result, !munlockall());
}

/* As a process that may lock so many pages at most, and is not excused from that. */
void limit_step(const struct step *step, struct result *result)
{
	const struct rlimit pages = { step->locked * PAGE, step->locked * PAGE };
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];
	bool worked = !setrlimit(RLIMIT_MEMLOCK, &pages) && !syscall(SYS_capget, &header, data);

	data[0].effective &= ~(1U << CAP_IPC_LOCK);
	ended(result, worked && !syscall(SYS_capset, &header, data));
}

/* -- a process ---------------------------------------------------------------------------------------------------- */

/* What a process is told to do: a step, and the pid of the process that it is about, if that is another. */
struct order {
	int32_t number;
	int32_t whose;
};

static void serve(const struct program *program)
{
	struct result result;
	struct order order;
	int was;

	while (read(lines[self].process, &order, sizeof(order)) == sizeof(order)) {
		memset(&result, 0, sizeof(result));
		was = self;
		whose = order.whose;
		program->step[order.number].verb->perform(&program->step[order.number], &result);
		if (self != was)
			continue;	/* it is the child that comes back: the parent answers */
		if (write(lines[self].process, &result, sizeof(result)) != sizeof(result))
			break;
	}
	_exit(1);
}

static void write_text(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0)
		return;
	if (write(fd, text, strlen(text)) < 0)
		problem("%s cannot be written", path);
	close(fd);
}

static void become_process(const struct program *program)
{
	const struct rlimit none = { 0, 0 };

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	prctl(PR_SET_NAME, "process");
	setrlimit(RLIMIT_CORE, &none);
	write_text("/proc/self/oom_score_adj", "1000");
	catch_signals();
	self = 0;
	serve(program);
}

/* -- the agent's side --------------------------------------------------------------------------------------------- */

/* The events of a process, from before its first step on. */
static int watch(pid_t pid, const struct program *program)
{
	int32_t number = pid;
	int fd;

	if (!(program->want & WANT_EVENTS) || probe_fd < 0)
		return -1;
	fd = open(PROBE_PATH, O_RDWR | O_CLOEXEC);
	if (fd >= 0 && ioctl(fd, PROBE_IOC_WATCH, &number)) {
		close(fd);
		fd = -1;
	}
	return fd;
}

void start_processes(const struct program *program)
{
	int pair[2];
	pid_t pid;

	for (int n = 0; n < PROCESSES; n++) {
		processes[n].pid = 0;
		processes[n].watch = -1;
		lines[n].agent = lines[n].process = -1;
		if (!socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair)) {
			lines[n].agent = pair[0];
			lines[n].process = pair[1];
		}
	}
	pid = fork();
	if (!pid)
		become_process(program);
	processes[0].pid = pid > 0 ? pid : 0;
	if (pid > 0)
		processes[0].watch = watch(pid, program);
}

/* Does a step of one process's get at the memory of one that it names? */
bool is_about_another(const struct step *step)
{
	return (step->verb->perform == pin_step || step->verb->perform == transfer_step) && step->process >= 0;
}

static void forget(int number)
{
	processes[number].pid = 0;
	if (processes[number].watch >= 0)
		close(processes[number].watch);
	processes[number].watch = -1;
}

static void died(struct result *result, const struct step *step, int status)
{
	if (step->verb->perform == exit_step && WIFEXITED(status)) {
		result->how = OK;
		return;
	}
	result->how = DIED;
	if (oopsed())
		strcpy(result->why, "oops");
	else
		snprintf(result->why, sizeof(result->why), "SIG%s",
			 WIFSIGNALED(status) ? sigabbrev_np(WTERMSIG(status)) : "NONE");
}

/*
 * A step that does not come back. What loops in the kernel may hear of SIGKILL all the same, and the machine is none the
 * worse for it.
 */
static void hung(int process, double limit, struct result *result)
{
	double until = now() + limit / 2;

	result->how = DIED;
	strcpy(result->why, "hang");
	kill(processes[process].pid, SIGKILL);
	while (!result->killed && now() < until) {
		if (waitpid(processes[process].pid, NULL, WNOHANG) == processes[process].pid) {
			forget(process);
			result->killed = true;
		} else {
			usleep(1000);
		}
	}
}

/* Have a process perform a step: its result, or what became of it instead. */
void run_in(int process, const struct step *step, const struct program *program, double limit, struct result *result)
{
	struct pollfd line = { .fd = lines[process].agent, .events = POLLIN };
	struct order order = { .number = step - program->step };
	double until = now() + limit;
	int status;

	memset(result, 0, sizeof(*result));
	if (step->verb->perform == fork_step &&
	    (step->child >= PROCESSES || processes[step->child].pid || lines[step->child].agent < 0)) {
		not_run(result, "there can be no process %ld: it is there, or more than %d", step->child, PROCESSES - 1);
		return;
	}
	if (is_about_another(step))
		order.whose = processes[step->process].pid;
	if (send(line.fd, &order, sizeof(order), MSG_NOSIGNAL) != sizeof(order)) {
		not_run(result, "process %d does not listen", process);
		return;
	}
	do {
		if (poll(&line, 1, POLL_MS) == 1 && read(line.fd, result, sizeof(*result)) == sizeof(*result)) {
			if (step->verb->perform == fork_step && result->how == OK) {
				processes[step->child].pid = result->value;
				processes[step->child].watch = watch(result->value, program);
			}
			return;
		}
		if (waitpid(processes[process].pid, &status, WNOHANG) == processes[process].pid) {
			forget(process);
			died(result, step, status);
			return;
		}
	} while (now() < until);
	hung(process, limit, result);
}

/* The end of all processes, in at most ``limit`` seconds. Was it? */
bool stop_processes(double limit)
{
	double until = now() + limit;
	bool clean = true;
	int n;

	for (n = 0; n < PROCESSES; n++)
		if (processes[n].pid)
			kill(processes[n].pid, SIGKILL);
	for (n = 0; n < PROCESSES; n++) {
		while (processes[n].pid && now() < until) {
			if (waitpid(processes[n].pid, NULL, WNOHANG))
				forget(n);
			else
				usleep(200);
		}
		clean = clean && !processes[n].pid;
		close(lines[n].agent);
		close(lines[n].process);
	}
	return clean;
}
