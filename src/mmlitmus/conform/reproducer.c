// SPDX-License-Identifier: GPL-2.0-only
// What c_program.py takes its C from. A part begins with "//@ NAME: PARTS THAT IT NEEDS", its headers follow as "//# ".
// @WORD@ is put in by c_program.py. A program gets the parts that it needs, in the order in which they are here.

//@ page:
//# <sys/mman.h>
#define PAGE 4096L
#define AT(slot, page) ((void *)(0x7f0000000000 + ((slot) - 'a') * 0x1000000L + (page) * PAGE))

//@ now:
//# <stdbool.h>
/* Has something been seen that is unlike the real kernel, unlike the model? */
static struct {
	bool unlike_kernel, unlike_model;
@PIDS@} now;

//@ recorded: now
/* What @KERNEL@ answered, step by step. */
static const char *const recorded[] = {
@RECORDED@
};

//@ outcome-recorded: recorded
//# <stdio.h>
//# <string.h>
static void outcome(int step, const char *call, const char *text)
{
	bool other = recorded[step] && strcmp(text, recorded[step]);

	printf("step %d: %s: %s%s%s\n", step, call, text, other ? ", recorded " : "", other ? recorded[step] : "");
	now.unlike_kernel |= other;
	now.unlike_model |= other;
}

//@ outcome-plain:
//# <stdio.h>
static void outcome(int step, const char *call, const char *text)
{
	printf("step %d: %s: %s\n", step, call, text);
}

//@ say: outcome
//# <errno.h>
//# <string.h>
//# <stdio.h>
static void say(int step, const char *call, long got)
{
	char text[32] = "0";

	if (got == -1)
		snprintf(text, sizeof(text), "-1 %s", strerrorname_np(errno));
	outcome(step, call, text);
@SEEN@}

//@ seen:
/* The last outcome. */
static char seen[32];

//@ differ: now
//# <stdio.h>
//# <string.h>
/* Here is what it is about: what was seen, what the real kernel showed, what the model expects. */
static void differ(int step, const char *what, const char *text, const char *kernel, const char *model)
{
	printf("step %d: %s: %s\n", step, what, text);
	now.unlike_kernel |= strcmp(text, kernel) != 0;
	now.unlike_model |= strcmp(text, model) != 0;
}

//@ touch: outcome
//# <setjmp.h>
//# <signal.h>
//# <stdbool.h>
//# <stdio.h>
//# <string.h>
static sigjmp_buf back;
static volatile sig_atomic_t code;

static void caught(int number, siginfo_t *info, void *context)
{
	(void)context;
	code = info->si_code;
	siglongjmp(back, number);
}

static void catch_signals(void)
{
	const struct sigaction action = { .sa_sigaction = caught, .sa_flags = SA_SIGINFO };

	sigaction(SIGSEGV, &action, NULL);
	sigaction(SIGBUS, &action, NULL);
}

/* A load or a store of 32 bits. */
static void touch(int step, volatile unsigned int *at, bool store)
{
	int number = sigsetjmp(back, 1);
	char text[32] = "0";

	if (number)
		snprintf(text, sizeof(text), "SIG%s", sigabbrev_np(number));
	else if (store)
		*at = 0x5a;
	else
		(void)*at;
	outcome(step, store ? "store" : "load", text);
	if (number)
		printf("step %d: si_code: %d\n", step, (int)code);
@SEEN@}

//@ probe:
//# <err.h>
//# <fcntl.h>
//# <linux/ioctl.h>
//# <linux/types.h>
//# <sys/ioctl.h>
/* The probe module: its file. */
static int probe;

static void open_probe(void)
{
	probe = open("/dev/mmlitmus_probe", O_RDWR);
	if (probe < 0)
		err(2, "/dev/mmlitmus_probe");
}

//@ fill:
//# <err.h>
//# <fcntl.h>
//# <linux/ioctl.h>
//# <linux/types.h>
//# <sys/ioctl.h>
//# <unistd.h>
enum region { RESERVED, BAR, HOLE, RAM };
/* remap_pfn_range() by mmap, of half of it, or by a fault; vmf_insert_pfn(), _prot(), vmf_insert_mixed() by faults */
enum insert {
	REMAP, REMAP_REFILL, REMAP_PARTIAL, REMAP_FAULT, FAULT_PFN, FAULT_PFN_PROT, HUGE, MIXED, NONE,
	INSERT_PAGE, FAULT_PAGE	/* vm_insert_page() by mmap; a page that ->fault answers with */
};
enum cache { DEFAULT, WC, UC_MINUS, UC, WT, WP };

struct probe_fill {
	__u32 region, insert, cache, padding;
	__s64 frame;	/* of the region, at page 0 of the file */
};

#define PROBE_IOC_FILL _IOW('m', 0x03, struct probe_fill)

/* A file of the probe module's whose mappings are filled like this. */
static int probe_file(int how, enum region region, enum insert insert, enum cache cache, long frame)
{
	struct probe_fill fill = { .region = region, .insert = insert, .cache = cache, .frame = frame };
	int fd = open("/dev/mmlitmus_probe", how);

	if (fd < 0 || ioctl(fd, PROBE_IOC_FILL, &fill))
		err(2, "/dev/mmlitmus_probe");
	return fd;
}

//@ unmap: probe
struct probe_range {
	__u64 page, pages;	/* of the file */
};

#define PROBE_IOC_UNMAP _IOW('m', 0x04, struct probe_range)

/* The module calls unmap_mapping_range(). */
static long unmap_range(long page, long pages)
{
	const struct probe_range range = { .page = page, .pages = pages };

	return ioctl(probe, PROBE_IOC_UNMAP, &range);
}

//@ say-count: say now
/* A call that returns how many, or -1; WANTED is what it returned when it was recorded, or -1. */
static void say_count(int step, const char *call, long got, long wanted)
{
	bool other = got >= 0 && wanted >= 0 && got != wanted;

	say(step, call, got < 0 ? -1 : 0);
	if (got >= 0)
		printf("step %d: count: %ld%s\n", step, got, other ? ", recorded another" : "");
	now.unlike_kernel |= other;
	now.unlike_model |= other;
}

//@ pin: probe
//# <errno.h>
//# <stdio.h>
//# <sys/types.h>
//# <unistd.h>
enum variant {
	GET_USER_PAGES, GET_USER_PAGES_FAST, GET_USER_PAGES_FAST_ONLY, GET_USER_PAGES_REMOTE, GET_USER_PAGES_UNLOCKED,
	PIN_USER_PAGES, PIN_USER_PAGES_FAST, PIN_USER_PAGES_REMOTE, PIN_USER_PAGES_UNLOCKED
};
/* FOLL_* by the module's numbers; PIN_LOCKED: the remote functions get their argument "locked" */
enum {
	PIN_WRITE = 1, PIN_FORCE = 2, PIN_LONGTERM = 4, PIN_NOWAIT = 8, PIN_NOFAULT = 16, PIN_DUMP = 32, PIN_LOCKED = 64
};

struct probe_pin {
	__s32 pid;
	__u32 variant, flags, hold;
	__u64 address;
	__u32 pages;
	__s32 got;	/* what the function returned */
	__u64 pfn[24];
};

#define PROBE_IOC_PIN _IOWR('m', 0x09, struct probe_pin)

/* The module gets pages of a process (0: this one), and keeps them. */
static long pin(int step, void *at, int pages, enum variant variant, int flags, pid_t pid, int hold)
{
	struct probe_pin pin = {
		.pid = pid, .variant = variant, .flags = flags, .hold = hold, .address = (unsigned long)at, .pages = pages
	};

	if (ioctl(probe, PROBE_IOC_PIN, &pin))
		err(2, "PROBE_IOC_PIN");
	for (int n = 0; n < pin.got; n++)
		if (pin.pfn[n] == ~0ULL)
			printf("step %d: pages[%d] was not filled\n", step, n);
	errno = pin.got < 0 ? -pin.got : 0;
	return pin.got < 0 ? -1 : pin.got;
}

//@ unpin: probe
//# <stdbool.h>
struct probe_unpin {
	__u32 hold, all, dirty, released;
};

#define PROBE_IOC_UNPIN _IOWR('m', 0x0a, struct probe_unpin)

static long unpin(int hold, bool dirty)
{
	struct probe_unpin unpin = { .hold = hold, .dirty = dirty };

	return ioctl(probe, PROBE_IOC_UNPIN, &unpin) ? -1 : (long)unpin.released;
}

//@ file:
//# <err.h>
//# <sys/mman.h>
//# <unistd.h>
/* A file in memory. */
static int file;

static void open_file(void)
{
	file = memfd_create("file", 0);
	if (file < 0 || ftruncate(file, 16 * PAGE))
		err(2, "memfd_create");
}

//@ moved:
/* The other end of what is moved. */
static char moved[24 * PAGE];

//@ vm-move: moved
//# <stdbool.h>
//# <sys/types.h>
//# <sys/uio.h>
//# <unistd.h>
static long vm_move(pid_t pid, void *at, size_t size, bool store)
{
	struct iovec here = { moved, size }, there = { at, size };

	pid = pid ? pid : getpid();
	return store ? process_vm_writev(pid, &here, 1, &there, 1, 0) : process_vm_readv(pid, &here, 1, &there, 1, 0);
}

//@ memory-file: moved
//# <errno.h>
//# <fcntl.h>
//# <stdbool.h>
//# <stdio.h>
//# <sys/types.h>
//# <unistd.h>
static long memory_file(pid_t pid, void *at, size_t size, bool store)
{
	char path[32];
	int fd, error;
	long got;

	snprintf(path, sizeof(path), "/proc/%d/mem", (int)(pid ? pid : getpid()));
	fd = open(path, O_RDWR);
	if (fd < 0)
		return -1;
	got = store ? pwrite(fd, moved, size, (off_t)at) : pread(fd, moved, size, (off_t)at);
	error = errno;
	close(fd);
	errno = error;
	return got;
}

//@ trace: moved
//# <errno.h>
//# <sched.h>
//# <signal.h>
//# <stdbool.h>
//# <sys/ptrace.h>
//# <sys/types.h>
//# <sys/wait.h>
//# <unistd.h>
static struct {
	pid_t pid;
	char *at;
	long pages, got;
	bool store;
	int error;
} traced;

static int tracer(void *unused)
{
	long word = 0;
	int status;

	(void)unused;
	if (ptrace(PTRACE_SEIZE, traced.pid, NULL, NULL) || ptrace(PTRACE_INTERRUPT, traced.pid, NULL, NULL) ||
	    waitpid(traced.pid, &status, __WALL) != traced.pid) {
		traced.error = errno;
		_exit(0);
	}
	for (long page = 0; page < traced.pages; page++) {
		errno = 0;
		if (traced.store)
			word = ptrace(PTRACE_POKEDATA, traced.pid, traced.at + page * PAGE, (void *)0x5aUL);
		else
			word = ptrace(PTRACE_PEEKDATA, traced.pid, traced.at + page * PAGE, NULL);
		if (errno && word == -1) {
			traced.error = errno;
			break;
		}
		traced.got = (page + 1) * sizeof(word);
	}
	ptrace(PTRACE_DETACH, traced.pid, NULL, NULL);
	_exit(0);
}

/* A word at the start of each page, by a child that shares this process's memory: nobody traces himself. */
static long trace(pid_t pid, void *at, long pages, bool store)
{
	pid_t child;

	traced.pid = pid ? pid : getpid();
	traced.at = at;
	traced.pages = pages;
	traced.store = store;
	traced.got = -1;
	child = clone(tracer, moved + sizeof(moved), CLONE_VM | SIGCHLD, NULL);
	if (child < 0)
		return -1;
	while (waitpid(child, NULL, 0) < 0 && errno == EINTR)
		;
	errno = traced.error;
	return traced.got;
}

//@ pipe-in: moved
//# <errno.h>
//# <fcntl.h>
//# <stdbool.h>
//# <sys/uio.h>
//# <unistd.h>
/* Into a pipe that is large enough, without waiting. */
static long pipe_in(void *at, size_t size, bool splice)
{
	struct iovec here = { at, size };
	int ends[2], error;
	long got;

	if (pipe2(ends, O_NONBLOCK))
		return -1;
	fcntl(ends[1], F_SETPIPE_SZ, 2 * (int)sizeof(moved));
	got = splice ? vmsplice(ends[1], &here, 1, SPLICE_F_NONBLOCK) : write(ends[1], at, size);
	error = errno;
	close(ends[0]);
	close(ends[1]);
	errno = error;
	return got;
}

//@ direct: moved
//# <err.h>
//# <errno.h>
//# <fcntl.h>
//# <stdbool.h>
//# <unistd.h>
/* Past the page cache; of a file that is made here for it. */
static long direct(void *at, size_t size, bool store)
{
	const char *name = "mmlitmus-o_direct";
	int fd = open(name, O_RDWR | O_CREAT | O_EXCL, 0600), error;
	long got;

	if (fd < 0 || write(fd, moved, sizeof(moved)) != sizeof(moved) || fsync(fd))
		err(2, "%s", name);
	close(fd);
	fd = open(name, O_RDWR | O_DIRECT);
	unlink(name);
	if (fd < 0)
		err(2, "%s, O_DIRECT", name);
	got = store ? pwrite(fd, at, size, 0) : pread(fd, at, size, 0);
	error = errno;
	close(fd);
	errno = error;
	return got;
}

//@ clear:
//# <err.h>
//# <errno.h>
//# <fcntl.h>
//# <unistd.h>
static long clear_refs(int what)
{
	int fd = open("/proc/self/clear_refs", O_WRONLY), error;
	char text = '0' + what;
	long got;

	if (fd < 0)
		err(2, "clear_refs");
	got = write(fd, &text, 1);
	error = errno;
	close(fd);
	errno = error;
	return got < 0 ? -1 : 0;
}

//@ limit:
//# <linux/capability.h>
//# <sys/resource.h>
//# <sys/syscall.h>
//# <unistd.h>
/* So much memory may be locked, and CAP_IPC_LOCK does not excuse from that. */
static long limit_locked(long size)
{
	const struct rlimit limit = { size, size };
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];

	if (setrlimit(RLIMIT_MEMLOCK, &limit) || syscall(SYS_capget, &header, data))
		return -1;
	data[0].effective &= ~(1U << CAP_IPC_LOCK);
	return syscall(SYS_capset, &header, data);
}

//@ vfio:
//# <err.h>
//# <fcntl.h>
//# <linux/vfio.h>
//# <limits.h>
//# <stdio.h>
//# <stdlib.h>
//# <string.h>
//# <sys/ioctl.h>
//# <unistd.h>
/* The devices' files, and the container that their groups are in. */
static int device[@DEVICES@], container;

/* Open the PCI function at ADDRESS, which vfio-pci drives. */
static int open_device(const char *address)
{
	char path[PATH_MAX], link[PATH_MAX] = "";
	int group, fd;

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/iommu_group", address);
	if (readlink(path, link, sizeof(link) - 1) < 0)
		err(2, "%s", path);
	snprintf(path, sizeof(path), "/dev/vfio%s", strrchr(link, '/'));
	group = open(path, O_RDWR);
	if (group < 0)
		err(2, "%s", path);
	if (!container)
		container = open("/dev/vfio/vfio", O_RDWR);
	if (ioctl(group, VFIO_GROUP_SET_CONTAINER, &container))
		err(2, "VFIO_GROUP_SET_CONTAINER");
	ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU);	/* the second group finds it set */
	fd = ioctl(group, VFIO_GROUP_GET_DEVICE_FD, address);
	if (fd < 0)
		err(2, "VFIO_GROUP_GET_DEVICE_FD");
	return fd;
}

//@ region-of: vfio
//# <linux/vfio.h>
//# <sys/ioctl.h>
//# <unistd.h>
/* Where a region is in a device's file. */
static off_t region_of(int fd, int index)
{
	struct vfio_region_info info = { .argsz = sizeof(info), .index = index };

	if (ioctl(fd, VFIO_DEVICE_GET_REGION_INFO, &info))
		err(2, "VFIO_DEVICE_GET_REGION_INFO");
	return info.offset;
}

//@ memory: region-of
//# <linux/pci_regs.h>
//# <stdbool.h>
//# <stdint.h>
/* Memory decode on or off, by the command register. */
static long set_memory(int fd, bool on)
{
	off_t at = region_of(fd, VFIO_PCI_CONFIG_REGION_INDEX) + PCI_COMMAND;
	uint16_t command;

	if (pread(fd, &command, sizeof(command), at) != sizeof(command))
		return -1;
	command = on ? command | PCI_COMMAND_MEMORY : command & ~PCI_COMMAND_MEMORY;
	return pwrite(fd, &command, sizeof(command), at) == sizeof(command) ? 0 : -1;
}

//@ power: region-of
//# <linux/pci_regs.h>
//# <stdint.h>
/* A power state, by the power management capability: 0 is D0, 3 is D3hot. */
static long set_power(int fd, uint16_t state)
{
	off_t config = region_of(fd, VFIO_PCI_CONFIG_REGION_INDEX);
	uint8_t at = 0, id = 0;
	uint16_t control;

	if (pread(fd, &at, 1, config + PCI_CAPABILITY_LIST) != 1)
		return -1;
	while (at && pread(fd, &id, 1, config + at) == 1 && id != PCI_CAP_ID_PM)
		if (pread(fd, &at, 1, config + at + PCI_CAP_LIST_NEXT) != 1)
			return -1;
	if (!at)
		errx(2, "the device has no power management");
	if (pread(fd, &control, sizeof(control), config + at + PCI_PM_CTRL) != sizeof(control))
		return -1;
	control = (control & ~PCI_PM_CTRL_STATE_MASK) | state;
	return pwrite(fd, &control, sizeof(control), config + at + PCI_PM_CTRL) == sizeof(control) ? 0 : -1;
}

//@ feature: vfio
#ifndef VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY	/* of 6.1 */
#define VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY 3
#define VFIO_DEVICE_FEATURE_LOW_POWER_EXIT 5
#endif

static long set_feature(int fd, unsigned int feature)
{
	struct vfio_device_feature request = { .argsz = sizeof(request), .flags = VFIO_DEVICE_FEATURE_SET | feature };

	return ioctl(fd, VFIO_DEVICE_FEATURE, &request);
}

//@ register: region-of
//# <stdint.h>
static uint32_t value;

/* Read the register at the start of a page of BAR 0. */
static long read_register(int fd, long page)
{
	ssize_t got = pread(fd, &value, sizeof(value), region_of(fd, VFIO_PCI_BAR0_REGION_INDEX) + page * 4096);

	return got == sizeof(value) ? 0 : -1;
}

//@ dma: vfio
#define IOVA(slot, page) (((slot) + 1) * 256 * PAGE + (page) * PAGE)

static long map_dma(unsigned long iova, size_t size, void *memory, int flags)
{
	struct vfio_iommu_type1_dma_map map = {
		.argsz = sizeof(map), .flags = flags, .vaddr = (unsigned long)memory, .iova = iova, .size = size
	};

	return ioctl(container, VFIO_IOMMU_MAP_DMA, &map);
}

/* Pages, or -1. */
static long unmap_dma(unsigned long iova, size_t size)
{
	struct vfio_iommu_type1_dma_unmap unmap = { .argsz = sizeof(unmap), .iova = iova, .size = size };

	return ioctl(container, VFIO_IOMMU_UNMAP_DMA, &unmap) ? -1 : (long)(unmap.size / PAGE);
}

//@ processes: now say
//# <err.h>
//# <signal.h>
//# <sys/types.h>
//# <unistd.h>
static int me, line[PROCESSES][2];	/* which process this is; where each waits for its turn */

/* Process PARENT forks process CHILD. Both come back. */
static void spawn(int step, int child)
{
	pid_t pid = fork();

	if (!pid) {
		me = child;
		alarm(60);
		return;
	}
	say(step, "fork", pid < 0 ? -1 : 0);
	if (pid > 0)
		now.pid[child] = pid;
}

//@ pass: processes
/* It is the turn of process TO after that of process FROM. Is this process TO? */
static bool pass(int from, int to)
{
	if (me == from && !now.pid[to])
		errx(2, "there is no process %d", to);
	if (me == from && write(line[to][1], &now, sizeof(now)) != sizeof(now))
		err(2, "write");
	return me == to && read(line[to][0], &now, sizeof(now)) == sizeof(now);
}

//@ gone: pass
//# <poll.h>
//# <sys/syscall.h>
/* Wait for the end of a process. */
static bool gone(int process)
{
	struct pollfd end = { .fd = syscall(SYS_pidfd_open, now.pid[process], 0), .events = POLLIN };

	if (end.fd >= 0)
		poll(&end, 1, -1);
	now.pid[process] = 0;
	return true;
}

//@ set-up-processes: processes
//# <sys/wait.h>
static void set_up_processes(void)
{
	for (int n = 0; n < PROCESSES; n++)
		if (pipe(line[n]))
			err(2, "pipe");
	me = @HOME@;
	now.pid[me] = getpid();
	alarm(60);	/* one that dies leaves the others waiting */
}

/* The first process ends the others, and has the answer; they wait for that. */
static int finish(int status)
{
	if (me != @HOME@)
		pause();
	for (int n = 0; n < PROCESSES; n++)
		if (n != me && now.pid[n])
			kill(now.pid[n], SIGKILL);
	while (wait(NULL) > 0)
		;
	return status;
}

//@ region: probe
struct probe_region {
	__u32 index, reserved, valid, padding;
	__u64 pfn, pages;
};

#define PROBE_IOC_REGION _IOWR('m', 0x02, struct probe_region)

//@ regions: region
//# <stddef.h>
//# <stdio.h>
/* What a frame is one of, and which: the module's regions@AND_BARS@, or RAM. */
static void name_frame(unsigned long pfn, char *to, size_t size)
{
	static const char *const names[] = { "reserved", "bar", "hole", "ram" };

	for (int n = 0; n < 4; n++) {
		struct probe_region at = { .index = n };

		if (ioctl(probe, PROBE_IOC_REGION, &at))
			err(2, "PROBE_IOC_REGION");
		if (pfn >= at.pfn && pfn < at.pfn + at.pages) {
			snprintf(to, size, "%s+%#lx", names[n], (unsigned long)(pfn - at.pfn));
			return;
		}
	}
@BARS@@ZERO@	snprintf(to, size, "RAM");
}

//@ bars:
//# <stdio.h>
static unsigned long bar_pfn[@DEVICES@], bar_pages[@DEVICES@];

static void find_bar(int number, const char *address, int bar)
{
	unsigned long long start = 0, end = 0;
	char path[128];
	FILE *file;

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/resource", address);
	file = fopen(path, "r");
	for (int n = 0; n <= bar; n++)
		if (!file || fscanf(file, "%llx %llx %*x", &start, &end) != 2)
			err(2, "%s", path);
	fclose(file);
	bar_pfn[number] = start / 4096;
	bar_pages[number] = (end + 1 - start) / 4096;
}

//@ walk: probe
struct probe_walk {
	__s32 pid;
	__u32 level;	/* where the walk ended */
	__u64 address, entry;
};

#define PROBE_IOC_WALK _IOWR('m', 0x05, struct probe_walk)
#define FRAME 0x000ffffffffff000ULL

//@ zero: walk
//# <err.h>
//# <sys/mman.h>
static unsigned long zero_pfn;	/* of the page of zeros */

static void find_zero_page(void)
{
	volatile char *page = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct probe_walk walk = { .address = (unsigned long)page };

	if (page == MAP_FAILED)
		err(2, "mmap");
	(void)*page;
	if (!ioctl(probe, PROBE_IOC_WALK, &walk))
		zero_pfn = (walk.entry & FRAME) / PAGE;
}

//@ entry: differ walk regions
//# <stdio.h>
//# <sys/types.h>
/* The page-table entry of an address: its level, its bits without the frame, the frame. */
static void entry(int step, const char *what, pid_t pid, void *at, const char *kernel, const char *model)
{
	static const char *const levels[] = { "pgd", "p4d", "pud", "pmd", "pte" };
	struct probe_walk walk = { .pid = pid, .address = (unsigned long)at };
	unsigned long long frame, mask = FRAME;
	char text[64], name[32] = "";

	if (ioctl(probe, PROBE_IOC_WALK, &walk))
		err(2, "PROBE_IOC_WALK");
	if (!walk.entry && walk.level < 3)
		walk.level = 3;	/* none is none, whichever tables are there further up */
	if (walk.level < 4 && walk.entry & 0x80)
		mask &= ~0x1000ULL;	/* the PAT bit of a huge leaf */
	frame = walk.entry & mask;
	if (walk.entry & 0x100 && !(walk.entry & 1))
		frame ^= mask;	/* PROT_NONE: inverted */
	if (walk.entry & 0x101)
		name_frame(frame / 4096, name, sizeof(name));
	if (*name)
		snprintf(text, sizeof(text), "%s %#llx %s", levels[walk.level], walk.entry & ~mask, name);
	else
		snprintf(text, sizeof(text), "%s %#llx", levels[walk.level], (unsigned long long)walk.entry);
	differ(step, what, text, kernel, model);
}

//@ flags: differ
//# <err.h>
//# <stdbool.h>
//# <stdio.h>
//# <string.h>
//# <sys/types.h>
/* VmFlags of the mapping that an address is in, from smaps. */
static void flags(int step, const char *what, pid_t pid, void *at, const char *kernel, const char *model)
{
	unsigned long start = 0, end = 0, here = (unsigned long)at;
	char path[32], line[256], text[128] = "not mapped";
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/smaps", (int)pid);
	file = fopen(path, "r");
	if (!file)
		err(2, "%s", path);
	while (fgets(line, sizeof(line), file)) {
		unsigned long first, last;

		if (sscanf(line, "%lx-%lx ", &first, &last) == 2)
			start = first, end = last;
		else if (here >= start && here < end && sscanf(line, "VmFlags: %127[^\n]", text) == 1)
			break;
	}
	fclose(file);
	while (*text && text[strlen(text) - 1] == ' ')
		text[strlen(text) - 1] = '\0';
	differ(step, what, text, kernel, model);
}

//@ pagemap: differ
//# <err.h>
//# <fcntl.h>
//# <stdint.h>
//# <stdio.h>
//# <string.h>
//# <sys/types.h>
//# <unistd.h>
/* The bits of an address in pagemap, without the frame. */
static void pagemap(int step, const char *what, pid_t pid, void *at, const char *kernel, const char *model)
{
	static const struct { int bit; const char *name; } names[] = {
		{ 63, "present" }, { 62, "swap" }, { 61, "file" }, { 60, "bit60" }, { 59, "bit59" }, { 58, "guard" },
		{ 57, "uffd-wp" }, { 56, "exclusive" }, { 55, "soft-dirty" },
	};
	char path[32], text[128] = "";
	uint64_t bits;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/pagemap", (int)pid);
	fd = open(path, O_RDONLY);
	if (fd < 0 || pread(fd, &bits, sizeof(bits), (unsigned long)at / PAGE * sizeof(bits)) != sizeof(bits))
		err(2, "%s", path);
	close(fd);
	for (int n = 0; n < 9; n++)
		if (bits >> names[n].bit & 1)
			strcat(strcat(text, *text ? " " : ""), names[n].name);
	differ(step, what, *text ? text : "none", kernel, model);
}

//@ locked: differ
//# <err.h>
//# <stdio.h>
//# <sys/types.h>
/* VmLck of a process, in pages. */
static void locked(int step, const char *what, pid_t pid, const char *kernel, const char *model)
{
	char path[32], line[256], text[32];
	long kilobytes = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
	file = fopen(path, "r");
	if (!file)
		err(2, "%s", path);
	while (fgets(line, sizeof(line), file))
		if (sscanf(line, "VmLck: %ld", &kilobytes) == 1)
			break;
	fclose(file);
	snprintf(text, sizeof(text), "%ld", kilobytes / 4);
	differ(step, what, text, kernel, model);
}

//@ frame: differ walk region
//# <err.h>
//# <stdio.h>
//# <sys/types.h>
struct probe_frame {
	__u64 pfn;
	__u32 valid, padding;
	__s32 refs, maps;
};

#define PROBE_IOC_FRAME _IOWR('m', 0x06, struct probe_frame)
#define COUNTED 64	/* pages of a region that have been counted before */

static struct probe_frame counted[4][COUNTED];

static struct probe_frame count_frame(unsigned long pfn)
{
	struct probe_frame frame = { .pfn = pfn };

	if (ioctl(probe, PROBE_IOC_FRAME, &frame))
		err(2, "PROBE_IOC_FRAME");
	return frame;
}

static void count_regions(void)
{
	for (int n = 0; n < 4; n++) {
		struct probe_region at = { .index = n };

		if (ioctl(probe, PROBE_IOC_REGION, &at))
			err(2, "PROBE_IOC_REGION");
		for (unsigned long page = 0; page < COUNTED && page < at.pages; page++)
			counted[n][page] = count_frame(at.pfn + page);
	}
}

/* References and mappings of the frame at an address; of a region's, how many more than before. */
static void frame(int step, const char *what, pid_t pid, void *at, const char *kernel, const char *model)
{
	struct probe_walk walk = { .pid = pid, .address = (unsigned long)at };
	char text[64] = "none";
	struct probe_frame now;
	void *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (page == MAP_FAILED)
		err(2, "mmap");
	*(volatile char *)page = 0;
	madvise(page, PAGE, MADV_COLD);	/* empties what this CPU keeps back for the LRU lists, each page held once more */
	if (ioctl(probe, PROBE_IOC_WALK, &walk))
		err(2, "PROBE_IOC_WALK");
	now = count_frame((walk.entry & FRAME) / PAGE);
	for (int n = 0; n < 4; n++)
		for (int m = 0; m < COUNTED; m++)
			if (counted[n][m].valid && counted[n][m].pfn == now.pfn) {
				now.refs -= counted[n][m].refs;
				now.maps -= counted[n][m].maps;
			}
	if (walk.level == 4 && walk.entry & 1 && now.valid)
		snprintf(text, sizeof(text), "refs %d maps %d", now.refs, now.maps);
	differ(step, what, text, kernel, model);
}

//@ memtypes: differ regions
//# <stdlib.h>
//# <string.h>
struct memtype {
	unsigned long start, end;
	char type[32];
	bool old;
};

static struct memtype before[256];	/* what was in the list when the program began */
static int count_before;

static int by_address(const void *one, const void *other)
{
	const struct memtype *a = one, *b = other;

	if (a->start != b->start)
		return a->start < b->start ? -1 : 1;
	if (a->end != b->end)
		return a->end < b->end ? -1 : 1;
	return strcmp(a->type, b->type);
}

/* The memory types that are reserved in the module's regions. */
static int read_memtypes(struct memtype *list)
{
	FILE *file = fopen("/sys/kernel/debug/x86/pat_memtype_list", "r");
	char line[256], name[32];
	int count = 0;

	if (!file)
		err(2, "pat_memtype_list");
	while (count < 256 && fgets(line, sizeof(line), file)) {
		struct memtype *at = &list[count];

		at->old = false;
		if (sscanf(line, "PAT: [mem 0x%lx-0x%lx] %31s", &at->start, &at->end, at->type) != 3)
			continue;
		name_frame(at->start / 4096, name, sizeof(name));
		count += strcmp(name, "RAM") && strncmp(name, "device", 6);
	}
	fclose(file);
	qsort(list, count, sizeof(*list), by_address);
	return count;
}

/* Those that were not there when the program began, in pages of their regions. */
static void memtypes(int step, const char *kernel, const char *model)
{
	static struct memtype list[256];
	int count = read_memtypes(list);
	char text[4096] = "", name[32];

	for (int n = 0; n < count_before; n++)
		before[n].old = false;
	for (int n = 0; n < count; n++) {
		struct memtype *at = &list[n];
		size_t used = strlen(text);
		int m = 0;

		while (m < count_before && (before[m].old || by_address(at, &before[m])))
			m++;
		if (m < count_before) {
			before[m].old = true;
			continue;
		}
		name_frame(at->start / 4096, name, sizeof(name));
		snprintf(text + used, sizeof(text) - used, "%s%s for %lu pages %s", *text ? ", " : "", name,
			 (at->end - at->start) / 4096, at->type);
	}
	differ(step, "memtypes", *text ? text : "none", kernel, model);
}

//@ log: differ regions
//# <fcntl.h>
//# <stdio.h>
//# <string.h>
//# <unistd.h>
static int kmsg;

static void open_log(void)
{
	kmsg = open("/dev/kmsg", O_RDONLY | O_NONBLOCK);
	if (kmsg < 0 || lseek(kmsg, 0, SEEK_END) < 0)
		err(2, "/dev/kmsg");
}

/* What the kernel has printed about memory types, in the order of their addresses. */
static void kernel_log(int step, const char *kernel, const char *model)
{
	static const struct { const char *words, *name; } known[] = {
		{ "freeing invalid memtype", "freeing-invalid-memtype" },
		{ "map pfn expected mapping type", "expected-mapping-type" },
		{ "map pfn RAM range req", "ram-range-type" },
	};
	char record[2048], text[8192] = "", name[32];
	unsigned long start, end, from[64];
	char said[64][96];
	int count = 0;
	ssize_t got;

	while (count < 64 && (got = read(kmsg, record, sizeof(record) - 1)) > 0) {
		char *range;

		record[got] = '\0';
		range = strstr(record, "[mem ");
		if (!strstr(record, "x86/PAT: ") || !range || sscanf(range, "[mem 0x%lx-0x%lx]", &start, &end) != 2)
			continue;
		name_frame(start / 4096, name, sizeof(name));
		for (int n = 0; n < 3; n++) {
			int at = count;

			if (!strstr(record, known[n].words))
				continue;
			for (; at && from[at - 1] > start; at--) {
				from[at] = from[at - 1];
				memcpy(said[at], said[at - 1], sizeof(said[at]));
			}
			from[at] = start;
			snprintf(said[at], sizeof(said[at]), "%s %s for %lu pages", known[n].name, name,
				 (end + 1 - start) / 4096);
			count++;
			break;
		}
	}
	for (int n = 0; n < count; n++) {
		size_t used = strlen(text);

		snprintf(text + used, sizeof(text) - used, "%s%.95s", n ? ", " : "", said[n]);
	}
	differ(step, "kernel log", *text ? text : "none", kernel, model);
}
