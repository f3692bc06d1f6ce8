// SPDX-License-Identifier: GPL-2.0-only
/* One answer is one line is one write: nothing of another writer's can come into the middle of it. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <fcntl.h>
#include <unistd.h>

#include "agent.h"

int port = STDOUT_FILENO;
bool first;

static char *line;
static size_t used, room;

#define PROBLEMS 16
static char problems[PROBLEMS][ERROR_SIZE];
static int problem_count;

static void append(const char *text, size_t size)
{
	if (used + size > room) {
		room = 2 * (used + size) + 4096;
		line = realloc(line, room);
		if (!line)
			abort();
	}
	memcpy(line + used, text, size);
	used += size;
}

void say(const char *format, ...)
{
	char text[512];
	va_list arguments;
	int size;

	va_start(arguments, format);
	size = vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	append(text, size < (int)sizeof(text) ? (size_t)size : sizeof(text) - 1);
}

/* The newline in front ends whatever the kernel may have left unfinished on the same line. */
void say_begin(void)
{
	used = 0;
	append("\n@mm {", 6);
	first = true;
}

void say_end(void)
{
	size_t done = 0;
	ssize_t size;

	append("}\n", 2);
	while (done < used) {
		size = write(port, line + done, used - done);
		if (size < 0)
			return;	/* nobody listens; the next read says so too */
		done += size;
	}
}

static void quoted(const char *text)
{
	append("\"", 1);
	for (; *text; text++) {
		unsigned char c = *text;

		if (c == '"' || c == '\\')
			append("\\", 1);
		if (c < 0x20 || c >= 0x7f)
			say("\\u%04x", c);
		else
			append(text, 1);
	}
	append("\"", 1);
}

void say_key(const char *key)
{
	if (!first)
		append(", ", 2);
	first = false;
	if (key) {
		quoted(key);
		append(": ", 2);
	}
}

void say_open(const char *key, char bracket)
{
	say_key(key);
	append(&bracket, 1);
	first = true;
}

void say_close(char bracket)
{
	append(&bracket, 1);
	first = false;
}

void say_string(const char *key, const char *value)
{
	say_key(key);
	quoted(value);
}

void say_number(const char *key, long value)
{
	say_key(key);
	say("%ld", value);
}

void say_bits(const char *key, uint64_t value)
{
	say_key(key);
	say("\"0x%llx\"", (unsigned long long)value);
}

void say_bool(const char *key, bool value)
{
	say_key(key);
	say(value ? "true" : "false");
}

void say_null(const char *key)
{
	say_key(key);
	say("null");
}

/* Something about this machine that is not as it was asked for; said with "ready". */
void problem(const char *format, ...)
{
	va_list arguments;

	if (problem_count == PROBLEMS)
		return;
	va_start(arguments, format);
	vsnprintf(problems[problem_count++], ERROR_SIZE, format, arguments);
	va_end(arguments);
}

void say_problems(void)
{
	say_open("problems", '[');
	for (int n = 0; n < problem_count; n++)
		say_string(NULL, problems[n]);
	say_close(']');
}

/* The first bytes of a file, without the newline at their end. */
bool read_text(const char *path, char *to, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t got = fd < 0 ? -1 : read(fd, to, size - 1);

	if (fd >= 0)
		close(fd);
	to[got > 0 ? got : 0] = '\0';
	to[strcspn(to, "\n")] = '\0';
	return got >= 0;
}
