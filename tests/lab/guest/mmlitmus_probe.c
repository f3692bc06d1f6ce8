// SPDX-License-Identifier: GPL-2.0-only
/* A probe module for the tests of the lab's host side: it loads, says what it was given, and oopses on demand. */
#include <linux/module.h>

static ulong bar;
module_param(bar, ulong, 0444);

static int oops_set(const char *value, const struct kernel_param *param)
{
	*(volatile int *)8 = 1;
	return 0;
}

static const struct kernel_param_ops oops = { .set = oops_set };
module_param_cb(oops, &oops, NULL, 0200);

static int __init probe_init(void)
{
	return bar ? 0 : -ENODEV;
}

static void __exit probe_exit(void)
{
}

module_init(probe_init);
module_exit(probe_exit);
MODULE_DESCRIPTION("a probe module for tests");
MODULE_LICENSE("GPL");
