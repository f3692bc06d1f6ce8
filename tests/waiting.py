"""How long a test waits for a command that it has started."""

#: seconds. Nothing is measured by it: a machine that is busy with other work fails no test, a command that hangs does
WAIT = 1200
