// SPDX-License-Identifier: GPL-2.0-only
/* PCI functions through VFIO: bound to vfio-pci, in groups of one container, and what a step does to one. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>

#include "agent.h"

/* of 6.1; a kernel that does not know them says so */
#ifndef VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY
#define VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY 3
#define VFIO_DEVICE_FEATURE_LOW_POWER_EXIT 5
#endif

#define PCI "/sys/bus/pci/devices"
#define STATE_D0 0
#define STATE_D3HOT 3

struct device devices[DEVICES];
int device_count;

static int container = -1;

static const struct { const char *id, *name; } names[] = {
	{ "1234:11e8", "edu" },
	{ "1af4:1110", "ivshmem" },
};

/* -- finding ------------------------------------------------------------------------------------------------------ */

static bool write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	bool worked = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);

	if (fd >= 0)
		close(fd);
	return worked;
}

static unsigned int id_of(const char *address, const char *which)
{
	char path[300], text[16];

	snprintf(path, sizeof(path), PCI "/%s/%s", address, which);
	return read_text(path, text, sizeof(text)) ? strtoul(text, NULL, 16) : 0;
}

static bool find_function(const char *id, char *address, size_t size)
{
	unsigned int vendor, device;
	struct dirent *entry;
	bool found = false;
	DIR *folder;

	folder = sscanf(id, "%x:%x", &vendor, &device) == 2 ? opendir(PCI) : NULL;
	while (folder && !found && (entry = readdir(folder))) {
		found = *entry->d_name != '.' && id_of(entry->d_name, "vendor") == vendor &&
			id_of(entry->d_name, "device") == device;
		if (found)
			snprintf(address, size, "%.15s", entry->d_name);
	}
	if (folder)
		closedir(folder);
	return found;
}

/* Give a function to vfio-pci: the path of its group's file, or false. */
static bool bind_function(const char *address, char *group, size_t size)
{
	char path[300], link[300], *number;
	ssize_t length;

	snprintf(path, sizeof(path), PCI "/%s/driver_override", address);
	if (!write_file(path, "vfio-pci"))
		return false;
	snprintf(path, sizeof(path), PCI "/%s/driver/unbind", address);
	write_file(path, address);	/* there may have been no driver */
	write_file("/sys/bus/pci/drivers/vfio-pci/bind", address);
	snprintf(path, sizeof(path), PCI "/%s/iommu_group", address);
	length = readlink(path, link, sizeof(link) - 1);
	if (length < 0)
		return false;
	link[length] = '\0';
	number = strrchr(link, '/');
	snprintf(group, size, "/dev/vfio/%.30s", number ? number + 1 : link);
	return !access(group, R_OK | W_OK);
}

static int open_function(const char *address, const char *path)
{
	int group = open(path, O_RDWR | O_CLOEXEC), fd = -1;

	if (group < 0)
		return -1;
	if (container < 0)
		container = open("/dev/vfio/vfio", O_RDWR | O_CLOEXEC);
	/* the group's file stays open as long as the device's; the container has its IOMMU after the first group */
	if (!ioctl(group, VFIO_GROUP_SET_CONTAINER, &container) &&
	    (device_count || !ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU)))
		fd = ioctl(group, VFIO_GROUP_GET_DEVICE_FD, address);
	if (fd < 0)
		close(group);
	return fd;
}

static void find_bars(struct device *device, const char *address)
{
	struct vfio_region_info info = { .argsz = sizeof(info) };
	char path[300], line[128];
	FILE *file;

	snprintf(path, sizeof(path), PCI "/%s/resource", address);
	file = fopen(path, "r");
	for (int n = 0; n < 6; n++) {
		info.index = VFIO_PCI_BAR0_REGION_INDEX + n;
		if (file && fgets(line, sizeof(line), file))
			device->bars[n].address = strtoull(line, NULL, 16);
		if (ioctl(device->fd, VFIO_DEVICE_GET_REGION_INFO, &info))
			continue;
		/* less than a page is nothing that a program can ask for */
		if (!(info.flags & VFIO_REGION_INFO_FLAG_MMAP) || info.size < PAGE)
			continue;
		device->bars[n].size = info.size;
		device->bars[n].offset = info.offset;
	}
	if (file)
		fclose(file);
	info.index = VFIO_PCI_CONFIG_REGION_INDEX;
	if (!ioctl(device->fd, VFIO_DEVICE_GET_REGION_INFO, &info))
		device->config = info.offset;
}

static void add_device(const char *id, bool must)
{
	struct device *device = &devices[device_count];
	char address[16], group[64];

	if (device_count == DEVICES || !find_function(id, address, sizeof(address))) {
		if (must)
			problem("there is no PCI function %s", id);
		return;
	}
	if (!bind_function(address, group, sizeof(group))) {
		problem("%s (%s) cannot be bound to vfio-pci: %s", address, id, strerror(errno));
		return;
	}
	device->fd = open_function(address, group);
	if (device->fd < 0) {
		problem("%s (%s) cannot be opened through %s: %s", address, id, group, strerror(errno));
		return;
	}
	snprintf(device->id, sizeof(device->id), "%s", id);
	snprintf(device->pci, sizeof(device->pci), "%s", address);
	snprintf(device->name, sizeof(device->name), "%s", id);
	for (size_t n = 0; n < sizeof(names) / sizeof(names[0]); n++)
		if (!strcmp(id, names[n].id))
			snprintf(device->name, sizeof(device->name), "%s", names[n].name);
	find_bars(device, address);
	device_count++;
}

/* The devices that were asked for in this order; when none was, those of the emulator that are there. */
void find_devices(char **ids, int count)
{
	if (!count && access("/sys/bus/pci/drivers/vfio-pci", F_OK))
		return;
	for (int n = 0; n < count; n++)
		add_device(ids[n], true);
	for (size_t n = 0; !count && n < sizeof(names) / sizeof(names[0]); n++)
		add_device(names[n].id, false);
}

/* -- config space ------------------------------------------------------------------------------------------------- */

/* 0, or an errno; less than was asked for is EIO. */
static int transferred(ssize_t got, size_t wanted)
{
	if (got < 0)
		return errno;
	return got == (ssize_t)wanted ? 0 : EIO;
}

static int config_read(const struct device *device, unsigned int at, void *to, size_t size)
{
	return transferred(pread(device->fd, to, size, device->config + at), size);
}

static int config_write(const struct device *device, unsigned int at, const void *from, size_t size)
{
	return transferred(pwrite(device->fd, from, size, device->config + at), size);
}

static int set_memory(const struct device *device, bool on)
{
	uint16_t command;
	int error = config_read(device, PCI_COMMAND, &command, sizeof(command));

	if (error)
		return error;
	command = on ? command | PCI_COMMAND_MEMORY : command & ~PCI_COMMAND_MEMORY;
	return config_write(device, PCI_COMMAND, &command, sizeof(command));
}

/* Where the power management capability is; 0: there is none. */
static unsigned int power_capability(const struct device *device)
{
	uint8_t at = 0, id = 0;

	if (config_read(device, PCI_CAPABILITY_LIST, &at, 1))
		return 0;
	for (int n = 0; at && n < 48; n++) {	/* more do not fit, so that a circle ends */
		if (config_read(device, at, &id, 1) || id == PCI_CAP_ID_PM)
			break;
		if (config_read(device, at + PCI_CAP_LIST_NEXT, &at, 1))
			return 0;
	}
	return id == PCI_CAP_ID_PM ? at : 0;
}

static int set_power(const struct device *device, unsigned int capability, uint16_t state)
{
	uint16_t control;
	int error = config_read(device, capability + PCI_PM_CTRL, &control, sizeof(control));

	if (error)
		return error;
	control = (control & ~PCI_PM_CTRL_STATE_MASK) | state;
	return config_write(device, capability + PCI_PM_CTRL, &control, sizeof(control));
}

static int set_feature(const struct device *device, unsigned int feature)
{
	struct vfio_device_feature request = {
		.argsz = sizeof(request),
		.flags = VFIO_DEVICE_FEATURE_SET | feature,
	};

	return ioctl(device->fd, VFIO_DEVICE_FEATURE, &request) ? errno : 0;
}

/* -- steps -------------------------------------------------------------------------------------------------------- */

static int act(const struct device *device, const struct step *step, struct result *result)
{
	unsigned int capability;
	uint32_t value = 0;
	int error;

	switch ((enum action)step->action) {
	case ACTION_MEMORY_OFF:
		return set_memory(device, false);
	case ACTION_MEMORY_ON:
		return set_memory(device, true);
	case ACTION_D3HOT:
	case ACTION_D0:
		capability = power_capability(device);
		if (capability)
			return set_power(device, capability, step->action == ACTION_D0 ? STATE_D0 : STATE_D3HOT);
		not_run(result, "device %ld (%s) has no power management", step->device, device->name);
		return -1;
	case ACTION_LOW_POWER_ENTER:
		return set_feature(device, VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY);
	case ACTION_LOW_POWER_EXIT:
		return set_feature(device, VFIO_DEVICE_FEATURE_LOW_POWER_EXIT);
	case ACTION_RESET:
		return ioctl(device->fd, VFIO_DEVICE_RESET) ? errno : 0;
	case ACTION_READ:
		if (!device->bars[0].size) {
			not_run(result, "device %ld (%s) has no BAR 0 to read", step->device, device->name);
			return -1;
		}
		error = transferred(pread(device->fd, &value, sizeof(value),
					  device->bars[0].offset + step->page * PAGE), sizeof(value));
		result->has_value = !error;
		result->value = value;
		return error;
	}
	return EINVAL;
}

void dev_step(const struct step *step, struct result *result)
{
	int error;

	if (step->device >= device_count) {
		not_run(result, "there is no device %ld", step->device);
		return;
	}
	error = act(&devices[step->device], step, result);
	if (error >= 0) {
		errno = error;
		ended(result, !error);
	}
}

/* -- DMA ---------------------------------------------------------------------------------------------------------- */

static long mapped[IOVA_SLOTS];	/* pages of each slot of IOVAs, from its start, that the program has mapped once */

static uint64_t iova_of(long slot, long page)
{
	return (slot + 1) * IOVA_SIZE + page * PAGE;
}

/* Through the container that all devices are in: what one of them reaches, all do. */
void dma_step(const struct step *step, struct result *result)
{
	struct vfio_iommu_type1_dma_map map = {
		.argsz = sizeof(map),
		.flags = step->prot,
		.vaddr = step->slot < 0 ? 0 : (uintptr_t)address_of(step->slot, step->page),
		.iova = iova_of(step->iova, step->offset),
		.size = step->pages * PAGE,
	};
	struct vfio_iommu_type1_dma_unmap unmap = { .argsz = sizeof(unmap), .iova = map.iova, .size = map.size };

	if (!device_count) {
		not_run(result, "there is no device behind VFIO");
	} else if (step->action && step->slot < 0) {
		not_run(result, "dma: a map wants a slot");
	} else if (step->action) {
		ended(result, !ioctl(container, VFIO_IOMMU_MAP_DMA, &map));
	} else {
		ended(result, !ioctl(container, VFIO_IOMMU_UNMAP_DMA, &unmap));
		result->has_count = result->how == OK;
		result->count = unmap.size / PAGE;
	}
}

/* The agent, of a step that a process performed. */
void note_dma(const struct step *step)
{
	if (step->action && mapped[step->iova] < step->offset + step->pages)
		mapped[step->iova] = step->offset + step->pages;
}

/* How many pages of a slot to look at: the first ones, of what is large. */
long iova_pages(int slot)
{
	return mapped[slot] < MOVED_PAGES ? mapped[slot] : MOVED_PAGES;
}

bool dma_pages(void)
{
	for (int slot = 0; slot < IOVA_SLOTS; slot++)
		if (mapped[slot])
			return true;
	return false;
}

/* The physical address that an IOVA is at. False: none. */
bool find_iova(int slot, long page, uint64_t *address)
{
	struct probe_iova at = { .iova = iova_of(slot, page) };
	unsigned int domain, bus, device, function;

	if (sscanf(devices[0].pci, "%x:%x:%x.%x", &domain, &bus, &device, &function) != 4)
		return false;
	at.domain = domain;
	at.bus = bus;
	at.devfn = device << 3 | function;
	if (ioctl(probe_fd, PROBE_IOC_IOVA, &at) || !at.address)
		return false;
	*address = at.address;
	return true;
}

/* At a program's end. */
void unmap_iovas(void)
{
	struct vfio_iommu_type1_dma_unmap unmap = { .argsz = sizeof(unmap), .size = IOVA_SIZE };

	for (int slot = 0; slot < IOVA_SLOTS; slot++) {
		if (!mapped[slot])
			continue;
		unmap.iova = iova_of(slot, 0);
		unmap.size = IOVA_SIZE;
		ioctl(container, VFIO_IOMMU_UNMAP_DMA, &unmap);
		mapped[slot] = 0;
	}
}

/* Every program finds the devices at full power with memory decode on. */
void reset_devices(void)
{
	for (int n = 0; n < device_count; n++) {
		unsigned int capability = power_capability(&devices[n]);

		set_feature(&devices[n], VFIO_DEVICE_FEATURE_LOW_POWER_EXIT);	/* an error: it was not entered */
		if (capability)
			set_power(&devices[n], capability, STATE_D0);
		set_memory(&devices[n], true);
	}
}
