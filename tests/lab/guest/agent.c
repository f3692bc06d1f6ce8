// SPDX-License-Identifier: GPL-2.0-only
/* An agent for the tests of the lab's host side: every step is a command of the shell's, answered with its output. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

static void quoted(FILE *out, const char *text)
{
	for (; *text; text++) {
		if (*text == '"' || *text == '\\')
			fprintf(out, "\\%c", *text);
		else if (*text == '\n')
			fputs("\\n", out);
		else if ((unsigned char)*text >= ' ')
			fputc(*text, out);
	}
}

static void step(FILE *out, int number, const char *command)
{
	static char text[1 << 16];
	FILE *pipe = popen(command, "r");
	size_t size = pipe ? fread(text, 1, sizeof(text) - 1, pipe) : 0;

	text[size] = 0;
	if (pipe)
		pclose(pipe);
	fprintf(out, "@mm {\"step\": %d, \"said\": \"", number);
	quoted(out, text);
	fputs("\"}\n", out);
}

int main(int argc, char **argv)
{
	int line = argc > 1 ? open(argv[1], O_RDWR | O_NOCTTY) : -1, number = 0;
	static char text[1 << 14], name[64];
	struct termios raw;
	FILE *in, *out;

	if (line < 0 || tcgetattr(line, &raw))
		return 1;
	cfmakeraw(&raw);
	tcsetattr(line, TCSANOW, &raw);
	in = fdopen(line, "r");
	out = fdopen(dup(line), "w");
	fprintf(out, "noise without the marker\n@mm {\"ready\": {\"agent\": \"test\"}}\n");
	fflush(out);
	while (fgets(text, sizeof(text), in)) {
		text[strcspn(text, "\n")] = 0;
		if (!strncmp(text, "program ", 8)) {
			snprintf(name, sizeof(name), "%.63s", text + 8);
			number = 0;
		} else if (!strcmp(text, "end")) {
			fprintf(out, "@mm {\"end\": \"%s\"}\n", name);
		} else if (!strcmp(text, "exit")) {
			return 7;
		} else {
			step(out, number++, text);
		}
		fflush(out);
	}
	return 0;
}
