/* SPDX-License-Identifier: GPL-2.0-only */
/* What differs between the kernels that the module is built for, and nothing else: 5.10 to 7.3. */
#ifndef MMLITMUS_COMPAT_H
#define MMLITMUS_COMPAT_H

#include <linux/huge_mm.h>
#include <linux/mm.h>
#include <linux/mmu_notifier.h>
#include <linux/version.h>

#define SINCE(major, minor) (LINUX_VERSION_CODE >= KERNEL_VERSION(major, minor, 0))

#if !SINCE(6, 17)
#include <linux/pfn_t.h>
#endif

/* 6.3 gave vm_flags an accessor that takes the VMA's write lock. */
static inline void probe_vm_flags_set(struct vm_area_struct *vma, unsigned long flags)
{
#if SINCE(6, 3)
	vm_flags_set(vma, flags);
#else
	vma->vm_flags |= flags;
#endif
}

/* 6.17 did away with pfn_t. */
static inline vm_fault_t probe_insert_mixed(struct vm_area_struct *vma, unsigned long address, unsigned long pfn)
{
#if SINCE(6, 17)
	return vmf_insert_mixed(vma, address, pfn);
#else
	return vmf_insert_mixed(vma, address, __pfn_to_pfn_t(pfn, PFN_DEV));
#endif
}

/*
 * A leaf of 2M that is marked special, and so kept from get_user_pages(), is of 6.12. Before that the function made one
 * for DAX, and for TTM, whose frames get_user_pages_fast() took for pages: no program here has it look at one.
 */
#define PROBE_HAS_HUGE IS_ENABLED(CONFIG_TRANSPARENT_HUGEPAGE)

/* 6.6 asks for an order; before, there was a name for each size. */
#if SINCE(6, 6)
typedef unsigned int probe_size;
#define PROBE_IS_PMD(size) ((size) == PMD_SHIFT - PAGE_SHIFT)
#else
typedef enum page_entry_size probe_size;
#define PROBE_IS_PMD(size) ((size) == PE_SIZE_PMD)
#endif

/* Does a function that puts in a PTE look whether there is a leaf in its way? Before 6.5 it takes it for a table. */
#define PROBE_MINDS_LEAVES SINCE(6, 5)

#if PROBE_HAS_HUGE
static inline vm_fault_t probe_insert_pmd(struct vm_fault *vmf, unsigned long pfn)
{
	bool write = vmf->flags & FAULT_FLAG_WRITE;

#if SINCE(6, 17)
	return vmf_insert_pfn_pmd(vmf, pfn, write);
#else
	return vmf_insert_pfn_pmd(vmf, __pfn_to_pfn_t(pfn, PFN_DEV), write);
#endif
}
#endif

/* 6.5 did away with the argument for VMAs. */
static inline long probe_get_user_pages(unsigned long start, unsigned long pages, unsigned int flags, struct page **to)
{
#if SINCE(6, 5)
	return get_user_pages(start, pages, flags, to);
#else
	return get_user_pages(start, pages, flags, to, NULL);
#endif
}

static inline long probe_pin_user_pages(unsigned long start, unsigned long pages, unsigned int flags, struct page **to)
{
#if SINCE(6, 5)
	return pin_user_pages(start, pages, flags, to);
#else
	return pin_user_pages(start, pages, flags, to, NULL);
#endif
}

static inline long probe_get_user_pages_remote(struct mm_struct *mm, unsigned long start, unsigned long pages,
					       unsigned int flags, struct page **to, int *locked)
{
#if SINCE(6, 5)
	return get_user_pages_remote(mm, start, pages, flags, to, locked);
#else
	return get_user_pages_remote(mm, start, pages, flags, to, NULL, locked);
#endif
}

static inline long probe_pin_user_pages_remote(struct mm_struct *mm, unsigned long start, unsigned long pages,
					       unsigned int flags, struct page **to, int *locked)
{
#if SINCE(6, 5)
	return pin_user_pages_remote(mm, start, pages, flags, to, locked);
#else
	return pin_user_pages_remote(mm, start, pages, flags, to, NULL, locked);
#endif
}

/* 5.16 added a flag that keeps get_user_pages() from faulting; 0 where there is none. */
#if SINCE(5, 16)
#define PROBE_FOLL_NOFAULT FOLL_NOFAULT
#else
#define PROBE_FOLL_NOFAULT 0
#endif

/* How often a page is mapped, or its folio, where one is all that the kernel counts. */
static inline int probe_mapcount(struct page *page)
{
#if SINCE(6, 12)
	return folio_mapcount(page_folio(page));
#else
	return page_mapcount(page);
#endif
}

/* 5.14 added the event of a device that wants a page for itself. */
static inline bool probe_is_exclusive(enum mmu_notifier_event event)
{
#if SINCE(5, 14)
	return event == MMU_NOTIFY_EXCLUSIVE;
#else
	return false;
#endif
}

#endif
