// SPDX-License-Identifier: GPL-2.0-only
/* Files and buffers that programs map: one of each a program, made before its first process. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>
#include <linux/dma-heap.h>
#include <linux/udmabuf.h>

#include "agent.h"

static int fds[BACKINGS] = { -1, -1, -1, -1, -1, -1 };

static int memory_file(unsigned int flags)
{
	int fd = memfd_create("file", MFD_CLOEXEC | flags);

	if (fd >= 0 && ftruncate(fd, FILE_PAGES * PAGE)) {
		close(fd);
		return -1;
	}
	return fd;
}

/* A DMA buffer of the pages of a file in memory; -1 where the kernel has no such driver. */
static int udmabuf(void)
{
	struct udmabuf_create create = { .flags = UDMABUF_FLAGS_CLOEXEC, .size = FILE_PAGES * PAGE };
	int driver = open("/dev/udmabuf", O_RDWR | O_CLOEXEC), file = memory_file(MFD_ALLOW_SEALING), fd = -1;

	create.memfd = file;
	/* it has to be a file that cannot become smaller */
	if (driver >= 0 && file >= 0 && !fcntl(file, F_ADD_SEALS, F_SEAL_SHRINK))
		fd = ioctl(driver, UDMABUF_CREATE, &create);
	if (driver >= 0)
		close(driver);
	if (file >= 0)
		close(file);	/* the buffer keeps its pages */
	return fd;
}

/* A DMA buffer of the system heap's; -1 where there is none. */
static int dma_heap(void)
{
	struct dma_heap_allocation_data data = { .len = FILE_PAGES * PAGE, .fd_flags = O_RDWR | O_CLOEXEC };
	int heap = open("/dev/dma_heap/system", O_RDWR | O_CLOEXEC);
	bool worked = heap >= 0 && !ioctl(heap, DMA_HEAP_IOCTL_ALLOC, &data);

	if (heap >= 0)
		close(heap);
	return worked ? (int)data.fd : -1;
}

/* What a program maps, and nothing that it does not: none of its frames come from elsewhere because of that. */
void open_memory(const struct program *program)
{
	for (int n = 0; n < BACKINGS; n++) {
		if (fds[n] >= 0)
			close(fds[n]);
		fds[n] = -1;
	}
	for (const struct step *step = program->step; step < program->step + program->steps; step++) {
		if (*step->error || step->verb->perform != map_step || fds[step->backing] >= 0)
			continue;
		if (step->backing == BACKING_FILE)
			fds[BACKING_FILE] = memory_file(0);
		else if (step->backing == BACKING_UDMABUF)
			fds[BACKING_UDMABUF] = udmabuf();
		else if (step->backing == BACKING_DMA_HEAP)
			fds[BACKING_DMA_HEAP] = dma_heap();
	}
}

int memory_fd(long backing)
{
	return fds[backing];
}

const char *memory_name(long backing)
{
	return backing == BACKING_UDMABUF ? "udmabuf" : backing == BACKING_DMA_HEAP ? "system DMA heap" : "file in memory";
}
