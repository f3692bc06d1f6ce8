// SPDX-License-Identifier: GPL-2.0-only
/*
 * agent [PORT] [--limit SECONDS] [--device VENDOR:DEVICE]...
 *
 * Talks on PORT (a serial line, say), or on standard input and output. On a PORT
 * it is alone with the machine: it takes the emulator's devices when none are
 * named. Every answer is a line that begins with "@mm " and goes on in JSON. First comes
 * {"ready": ...}. Then, as often as one likes:
 *
 *	program ID [want=pagemap,locked,frames,events]
 *	map slot=a pages=4 backing=anonymous
 *	places=0:a0,0:a1
 *	touch slot=a access=write places=0:a0
 *	end
 *
 * Answered by {"begin": ID, "memtypes": [...]}, one {"step": N, ...} a step as
 * each is done, and {"end": ID, ...}. Between programs, "regions first=64" has
 * the regions of device memory begin 64 pages on, answered by {"regions": [...]}.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "agent.h"

#define LINE_SIZE 16384

static double limit = 5;	/* seconds that a step may take */
static int input = STDIN_FILENO;
static struct program program;
static cpu_set_t all_cpus;

/* -- the watchdog ------------------------------------------------------------------------------------------------- */

/*
 * A process that hangs in the kernel is noticed by the agent, which waits for it
 * with a limit. The agent itself may hang too, looking at a process (for a lock
 * that is never let go): this is noticed by the watchdog, which looks at nothing.
 */
struct deadline {
	volatile double until;	/* 0: nothing is under way */
	volatile int step;
};

static struct deadline *deadline;

static void watch_over(void)
{
	sched_setaffinity(0, sizeof(all_cpus), &all_cpus);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	prctl(PR_SET_NAME, "watchdog");
	while (!deadline->until || now() < deadline->until)
		usleep(100000);
	say_begin();
	say_number("stuck", deadline->step);
	say_string("program", program.id);
	say_end();
	_exit(0);
}

/* Twice the limit: once for the process, once for the agent that looks. */
static void expect(int step)
{
	deadline->step = step;
	deadline->until = now() + 2 * limit + 1;
}

/* -- a program ---------------------------------------------------------------------------------------------------- */

static void begin(void)
{
	say_begin();
	say_string("begin", program.id);
	say_memtypes();
	if (device_count)
		say_bar_memtypes();
	if (program.want & WANT_FRAMES)
		say_counts(program.want & WANT_WIDE);
	say_end();
}

static bool is_there(long process)
{
	return process < PROCESSES && processes[process].pid;
}

/* Run a step. False: the program cannot go on. */
static bool run_step(int number, int *current)
{
	const struct step *step = &program.step[number];
	struct result result = { .how = OK };
	bool absent = false;

	expect(number);
	if (!*step->error && step->verb->perform) {
		absent = !processes[*current].pid || (is_about_another(step) && !is_there(step->process));
		if (!absent)
			run_in(*current, step, &program, limit, &result);
		if (step->verb->perform == dma_step && result.how == OK)
			note_dma(step);
	} else if (!*step->error && !strcmp(step->verb->name, "switch")) {
		absent = !is_there(step->process);
		*current = step->process < PROCESSES ? step->process : PROCESSES - 1;
	}
	say_begin();
	say_number("step", number);
	if (*step->error) {
		say_string("error", step->error);
	} else if (absent) {
		say_string("skipped", "there is no such process");
		say_open("observed", '{');
		say_close('}');
	} else if (result.how == NOT_RUN) {
		say_string("error", result.why);
	} else {
		say_observed(&program, step, &result);
	}
	say_end();
	return result.how != DIED;
}

static void finish(int done)
{
	bool clean;

	expect(done);
	say_begin();
	say_string("end", program.id);
	say_log("log");	/* before the processes go: what their end prints is none of the program's */
	if (done < program.steps) {
		say_key("stopped");
		say("\"at step %d\"", done);
	} else {
		say_null("stopped");
	}
	clean = stop_processes(limit);
	let_go_of_pages();
	unmap_iovas();
	say_log("after");
	say_bool("clean", clean);
	if (program.want & WANT_FRAMES)
		say_counts(program.want & WANT_WIDE);	/* with nobody there any more */
	say_end();
}

static void run_program(void)
{
	int current = 0, number;
	pid_t watchdog;

	expect(-1);
	watchdog = fork();
	if (!watchdog)
		watch_over();
	reset_devices();
	start_log();
	open_memory(&program);
	start_processes(&program);
	begin();
	for (number = 0; number < program.steps; number++)
		if (!run_step(number, &current))
			break;
	finish(number);
	deadline->until = 0;
	if (watchdog > 0) {
		kill(watchdog, SIGKILL);
		waitpid(watchdog, NULL, 0);
	}
}

/* -- the conversation --------------------------------------------------------------------------------------------- */

static void answer_error(const char *text, const char *what)
{
	char message[ERROR_SIZE];

	snprintf(message, sizeof(message), "%s: %.60s", text, what);
	say_begin();
	say_string("error", message);
	say_end();
}

/* Where the regions are from now on. */
static void answer_regions(const char *first)
{
	char *end;
	long page = strtol(first, &end, 10);

	if (end == first || *end || page < 0 || !move_regions(page)) {
		answer_error("there are no regions from there on", first);
		return;
	}
	say_begin();
	say_regions();
	say_end();
}

/* The end of a program that cannot be run. */
static void answer_refusal(void)
{
	say_begin();
	say_string("end", program.id);
	say_string("error", program.error);
	say_end();
}

static bool starts_with(const char *line, const char *word)
{
	return !strncmp(line, word, strlen(word));
}

static void take_line(char *line)
{
	static bool inside;

	if (starts_with(line, "program ")) {
		start_program(&program, line + strlen("program "));
		inside = true;
	} else if (!inside && starts_with(line, "regions first=")) {
		answer_regions(line + strlen("regions first="));
	} else if (!inside) {
		if (*line)
			answer_error("not within a program", line);
	} else if (!strcmp(line, "end")) {
		inside = false;
		if (*program.error)
			answer_refusal();
		else
			run_program();
	} else if (starts_with(line, "places=") && program.steps) {
		add_places(&program, &program.step[program.steps - 1], line + strlen("places="));
	} else if (*line) {
		add_step(&program, line);
	}
}

static void converse(void)
{
	static char text[LINE_SIZE + 1];
	bool too_long = false;
	size_t used = 0;
	ssize_t got;
	char *end;

	while ((got = read(input, text + used, LINE_SIZE - used)) > 0) {
		used += got;
		text[used] = '\0';
		while ((end = memchr(text, '\n', used))) {
			*end = '\0';
			if (end > text && end[-1] == '\r')
				end[-1] = '\0';
			if (!too_long)
				take_line(text);
			too_long = false;
			used -= end + 1 - text;
			memmove(text, end + 1, used + 1);
		}
		if (used == LINE_SIZE) {
			answer_error("a line is too long", text);
			too_long = true;
			used = 0;
		}
	}
}

/* -- starting ----------------------------------------------------------------------------------------------------- */

static void open_port(const char *path)
{
	struct termios settings;

	input = port = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (port < 0) {
		perror(path);
		exit(2);
	}
	if (tcgetattr(port, &settings))
		return;	/* no terminal */
	cfmakeraw(&settings);
	settings.c_cflag |= CLOCAL;	/* a line without a modem */
	cfsetspeed(&settings, B115200);
	tcsetattr(port, TCSANOW, &settings);
}

/* Where the kernel places the agent's own mappings at random, a slot may be taken. */
static void stay_out_of_the_slots(char **argv)
{
	int old = personality(0xffffffff);

	if (old < 0 || old & ADDR_NO_RANDOMIZE)
		return;
	personality(old | ADDR_NO_RANDOMIZE);
	execv("/proc/self/exe", argv);
	problem("addresses are random: a slot may be taken");
}

/*
 * Only one task runs at a time. On one CPU its turn comes sooner, and pages that the kernel keeps back for a CPU are
 * always the same CPU's. The watchdog may run on any: the one may be the one that is stuck.
 */
static void stay_on_one_cpu(void)
{
	cpu_set_t one;
	int cpu = 0;

	if (sched_getaffinity(0, sizeof(all_cpus), &all_cpus))
		return;
	while (cpu < CPU_SETSIZE - 1 && !CPU_ISSET(cpu, &all_cpus))
		cpu++;
	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	sched_setaffinity(0, sizeof(one), &one);
}

static int usage(void)
{
	fprintf(stderr, "usage: agent [PORT] [--limit SECONDS] [--device VENDOR:DEVICE]...\n");
	return 2;
}

int main(int argc, char **argv)
{
	const char *path = NULL;
	char *ids[DEVICES];
	int count = 0;

	stay_out_of_the_slots(argv);
	for (int n = 1; n < argc; n++) {
		if (!strcmp(argv[n], "--limit") && n + 1 < argc)
			limit = atof(argv[++n]);
		else if (!strcmp(argv[n], "--device") && n + 1 < argc && count < DEVICES)
			ids[count++] = argv[++n];
		else if (*argv[n] != '-' && !path)
			path = argv[n];
		else
			return usage();
	}
	if (limit <= 0)
		return usage();
	signal(SIGPIPE, SIG_IGN);
	stay_on_one_cpu();
	if (path)
		open_port(path);
	deadline = mmap(NULL, sizeof(*deadline), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (deadline == MAP_FAILED) {
		perror("mmap");
		return 2;
	}
	find_probe();
	if (path || count)
		find_devices(ids, count);
	reset_devices();
	start_log();
	say_begin();
	say_ready();
	say_end();
	converse();
	return 0;
}
