// SPDX-License-Identifier: GPL-2.0-only
/*
 * small
 *
 * At step 2 (outcome), 6.12.1 showed
 *	-1 ENOMEM
 * where mmlitmus's model of it (v6.12) expects
 *	0
 *
 *	gcc -O1 -o small small.c && ./small
 *
 * Exit status: 0: as the real kernel; 1: as the model expects; 2: neither, or it could not be run.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#define PAGE 4096L
#define AT(slot, page) ((void *)(0x7f0000000000 + ((slot) - 'a') * 0x1000000L + (page) * PAGE))

/* The last outcome. */
static char seen[32];

/* Has something been seen that is unlike the real kernel, unlike the model? */
static struct {
	bool unlike_kernel, unlike_model;
} now;

/* What 6.12.1 answered, step by step. */
static const char *const recorded[] = {
	"0", "0", NULL,
};

static void outcome(int step, const char *call, const char *text)
{
	bool other = recorded[step] && strcmp(text, recorded[step]);

	printf("step %d: %s: %s%s%s\n", step, call, text, other ? ", recorded " : "", other ? recorded[step] : "");
	now.unlike_kernel |= other;
	now.unlike_model |= other;
}

static void say(int step, const char *call, long got)
{
	char text[32] = "0";

	if (got == -1)
		snprintf(text, sizeof(text), "-1 %s", strerrorname_np(errno));
	outcome(step, call, text);
	snprintf(seen, sizeof(seen), "%s", text);
}

int main(void)
{
	setlinebuf(stdout);

	say(0, "mmap", (long)mmap(AT('a', 0), 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
			-1, 0));
	say(1, "munmap", munmap(AT('a', 1), 2 * PAGE));
	/*
	 * outcome: 6.12.1 showed -1 ENOMEM;
	 *          v6.12 expects 0
	 */
	say(2, "madvise", madvise(AT('a', 0), 4 * PAGE, MADV_WILLNEED));
	now.unlike_kernel |= strcmp(seen, "-1 ENOMEM") != 0;
	now.unlike_model |= strcmp(seen, "0") != 0;
	return now.unlike_kernel ? now.unlike_model ? 2 : 1 : 0;
}
