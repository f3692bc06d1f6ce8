/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What user space asks of the probe module, through /dev/mmlitmus_probe.
 *
 * Every open file says once how its mappings are filled (PROBE_IOC_FILL). All of
 * them are one file to the kernel: they share an address_space, so that
 * unmap_mapping_range() reaches a page by its file offset, whoever mapped it.
 * Lengths are pages, addresses of user space are bytes.
 */
#ifndef MMLITMUS_PROBE_H
#define MMLITMUS_PROBE_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define PROBE_VERSION 2

/* What the module can map. A region that this machine does not have is of 0 pages. */
enum probe_region_index {
	PROBE_REGION_RESERVED,	/* kept back at boot, with struct pages */
	PROBE_REGION_BAR,	/* a BAR of a PCI function */
	PROBE_REGION_HOLE,	/* kept back at boot, without struct pages */
	PROBE_REGION_RAM,	/* pages of the module's own */
	PROBE_REGIONS
};

/* How a mapping is filled. */
enum probe_insert {
	PROBE_REMAP,		/* remap_pfn_range() of all of it, by mmap */
	PROBE_REMAP_REFILL,	/* the same; faults put pages back one by one */
	PROBE_REMAP_PARTIAL,	/* remap_pfn_range() of its first half, by mmap */
	PROBE_REMAP_FAULT,	/* remap_pfn_range() of all of it, by the first fault */
	PROBE_FAULT_PFN,	/* vmf_insert_pfn() */
	PROBE_FAULT_PFN_PROT,	/* vmf_insert_pfn_prot(): the cache type is not the VMA's */
	PROBE_HUGE,		/* vmf_insert_pfn_pmd() where one fits, else as FAULT_PFN */
	PROBE_MIXED,		/* vmf_insert_mixed() */
	PROBE_NONE,		/* nothing: every touch is SIGBUS */
	PROBE_INSERT_PAGE,	/* vm_insert_page() of all of it, by mmap; of the region of RAM only, as the next */
	PROBE_FAULT_PAGE,	/* ->fault answers with the page, which the kernel then maps */
	PROBE_INSERTS
};

/* Which cache type the module asks for. */
enum probe_cache {
	PROBE_CACHE_DEFAULT,	/* what mmap gave */
	PROBE_CACHE_WC,
	PROBE_CACHE_UC_MINUS,
	PROBE_CACHE_UC,
	PROBE_CACHE_WT,
	PROBE_CACHE_WP,
	PROBE_CACHES
};

struct probe_info {
	__u32 version;
	__u32 inserts;		/* bit mask of the enum probe_insert that this kernel has */
};

struct probe_region {
	__u32 index;		/* in */
	__u32 reserved;		/* PageReserved() of the first frame */
	__u32 valid;		/* pfn_valid() of the first frame */
	__u32 padding;
	__u64 pfn;
	__u64 pages;
};

struct probe_fill {
	__u32 region;
	__u32 insert;
	__u32 cache;
	__u32 padding;
	__s64 frame;		/* of the region, at page 0 of the file; may be negative */
};

/* By which function of the kernel's a process's pages are got. */
enum probe_pin_variant {
	PROBE_GET,		/* get_user_pages() */
	PROBE_GET_FAST,
	PROBE_GET_FAST_ONLY,
	PROBE_GET_REMOTE,
	PROBE_GET_UNLOCKED,
	PROBE_PIN,		/* pin_user_pages() */
	PROBE_PIN_FAST,
	PROBE_PIN_REMOTE,
	PROBE_PIN_UNLOCKED,
	PROBE_PIN_VARIANTS
};

/* How: FOLL_* by the module's own numbers, the kernel's have moved between releases. */
#define PROBE_PIN_WRITE	   0x01
#define PROBE_PIN_FORCE	   0x02
#define PROBE_PIN_LONGTERM 0x04
#define PROBE_PIN_NOWAIT   0x08
#define PROBE_PIN_NOFAULT  0x10
#define PROBE_PIN_DUMP	   0x20
#define PROBE_PIN_LOCKED   0x40	/* none of FOLL_*: the *_remote() functions get their argument "locked" */
#define PROBE_PIN_FLAGS	   0x7f

#define PROBE_PIN_PAGES 24
#define PROBE_NO_PFN (~0ULL)	/* a slot of pages[] that the kernel left as it was */

struct probe_pin {
	__s32 pid;		/* in; whose memory, for *_remote(); 0 is the caller */
	__u32 variant;
	__u32 flags;
	__u32 hold;		/* the number under which the pages are held, by the file, until PROBE_IOC_UNPIN */
	__u64 address;
	__u32 pages;
	__s32 got;		/* what the function returned: pages, or an errno as a negative number */
	__u64 pfn[PROBE_PIN_PAGES];	/* of as many as it returned */
};

struct probe_unpin {
	__u32 hold;		/* in */
	__u32 all;		/* in; every hold of the file's */
	__u32 dirty;		/* in; the pages have been written to */
	__u32 released;		/* pages */
};

struct probe_iova {
	__u32 domain;		/* in: a PCI function */
	__u32 bus;
	__u32 devfn;
	__u32 padding;
	__u64 iova;		/* in; bytes */
	__u64 address;		/* physical, where the function's IOMMU domain has it; 0: nowhere */
};

struct probe_range {
	__u64 page;		/* of the file */
	__u64 pages;
};

/* Entries put into a mapping of PROBE_HUGE of the caller's, where others may be: EOPNOTSUPP where that is not safe. */
struct probe_put {
	__u64 address;
	__u64 pages;
	__u32 remap;		/* by remap_pfn_range(), else the first one by vmf_insert_pfn() */
	__u32 padding;
};

struct probe_walk {
	__s32 pid;		/* in; 0 is the caller */
	__u32 level;		/* where the walk ended: 0 PGD, 1 P4D, 2 PUD, 3 PMD, 4 PTE */
	__u64 address;		/* in */
	__u64 entry;		/* the raw bits there */
};

struct probe_frame {
	__u64 pfn;		/* in */
	__u32 valid;		/* has it a struct page? The rest is 0 if not */
	__u32 padding;
	__s32 refs;
	__s32 maps;		/* of the folio, where the kernel has folios */
};

/* Notifier events by the module's own numbers: the kernel's have moved between releases. */
enum probe_event_type {
	PROBE_EVENT_UNMAP,
	PROBE_EVENT_CLEAR,
	PROBE_EVENT_PROTECTION_VMA,
	PROBE_EVENT_PROTECTION_PAGE,
	PROBE_EVENT_SOFT_DIRTY,
	PROBE_EVENT_RELEASE,
	PROBE_EVENT_MIGRATE,
	PROBE_EVENT_EXCLUSIVE,
	PROBE_EVENT_OTHER,
	PROBE_EVENTS
};

struct probe_event {
	__u32 type;
	__u32 end;		/* 0: invalidate_range_start, 1: _end */
	__u64 first;		/* the range, in bytes, without its last address */
	__u64 last;
};

#define PROBE_EVENTS_AT_ONCE 64

struct probe_events {
	__u32 count;
	__u32 lost;		/* since the last call */
	struct probe_event events[PROBE_EVENTS_AT_ONCE];
};

/*
 * Numbers 0x01 to 0x1f: to look and to map.
 * Numbers 0x20 to 0x2f: kept for holding a task at a named function.
 */
#define PROBE_IOC 'm'
#define PROBE_IOC_INFO	 _IOR(PROBE_IOC, 0x01, struct probe_info)
#define PROBE_IOC_REGION _IOWR(PROBE_IOC, 0x02, struct probe_region)
#define PROBE_IOC_FILL	 _IOW(PROBE_IOC, 0x03, struct probe_fill)
#define PROBE_IOC_UNMAP	 _IOW(PROBE_IOC, 0x04, struct probe_range)
#define PROBE_IOC_WALK	 _IOWR(PROBE_IOC, 0x05, struct probe_walk)
#define PROBE_IOC_FRAME	 _IOWR(PROBE_IOC, 0x06, struct probe_frame)
#define PROBE_IOC_WATCH	 _IOW(PROBE_IOC, 0x07, __s32)	/* the events of a process; once a file */
#define PROBE_IOC_EVENTS _IOR(PROBE_IOC, 0x08, struct probe_events)	/* and forget them */
#define PROBE_IOC_PIN	 _IOWR(PROBE_IOC, 0x09, struct probe_pin)
#define PROBE_IOC_UNPIN	 _IOWR(PROBE_IOC, 0x0a, struct probe_unpin)
#define PROBE_IOC_IOVA	 _IOWR(PROBE_IOC, 0x0b, struct probe_iova)
#define PROBE_IOC_PUT	 _IOW(PROBE_IOC, 0x0c, struct probe_put)

#endif
