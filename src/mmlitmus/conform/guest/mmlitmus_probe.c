// SPDX-License-Identifier: GPL-2.0-only
/*
 * The lab's probe: maps device memory in every way that a driver can, calls what
 * only a driver may call, and shows what user space cannot see.
 *
 * It is for a throw-away virtual machine. Nothing in it is careful with the
 * machine beyond what the functions that it calls ask for.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/fs.h>
#include <linux/iommu.h>
#include <linux/ioport.h>
#include <linux/list.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/mmu_notifier.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/pgtable.h>
#include <linux/pid.h>
#include <linux/rcupdate.h>
#include <linux/sched/mm.h>
#include <linux/sched/task.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/uaccess.h>

#include "compat.h"
#include "mmlitmus_probe.h"

#define RAM_ORDER 9	/* 2M, so that a huge leaf of it fits */
#define EVENTS_KEPT 256

static ulong bar;
module_param(bar, ulong, 0444);
MODULE_PARM_DESC(bar, "address in bytes of the PCI function's BAR that is the region bar; 0 for none");

static ulong resv[2] = { 0, SZ_16M };
module_param_array(resv, ulong, NULL, 0444);
MODULE_PARM_DESC(resv, "address[,size] in bytes of memory kept back at boot that has struct pages; 0 for none");

static ulong hole[2] = { 0, SZ_128M };
module_param_array(hole, ulong, NULL, 0444);
MODULE_PARM_DESC(hole, "address[,size] in bytes of memory kept back at boot that has none; 0 for none");

static bool movable;
module_param(movable, bool, 0444);
MODULE_PARM_DESC(movable, "take the region ram from ZONE_MOVABLE, where there is one (movablecore=)");

struct region {
	unsigned long pfn;
	unsigned long pages;
};

static struct region regions[PROBE_REGIONS];
static struct page *ram;

/* The invalidations of one process, from PROBE_IOC_WATCH to the file's end. */
struct watch {
	struct mmu_notifier notifier;
	struct mm_struct *mm;
	spinlock_t lock;
	unsigned int count;
	unsigned int lost;
	struct probe_event events[EVENTS_KEPT];
};

/* Pages of a process that were got at once. */
struct hold {
	struct list_head list;
	unsigned int number;
	bool pinned;	/* by pin_user_pages*(), not by get_user_pages*() */
	unsigned int count;
	struct page *pages[PROBE_PIN_PAGES];
};

struct probe_file {
	struct mutex lock;	/* over the holds and what is set once: fill and watch */
	struct list_head holds;
	bool filled;
	struct probe_fill fill;
	struct watch *watch;
};

/* -- mapping ------------------------------------------------------------------------------------------------------ */

static struct probe_fill *fill_of(struct vm_area_struct *vma)
{
	struct probe_file *probe = vma->vm_file->private_data;

	return &probe->fill;
}

/* Are ``pages`` frames from page ``pgoff`` of the file in its region? If so, the first one. */
static bool frame_at(const struct probe_fill *fill, unsigned long pgoff, unsigned long pages, unsigned long *pfn)
{
	const struct region *region = &regions[fill->region];
	s64 frame = fill->frame + (s64)pgoff;

	if (frame < 0 || pages > region->pages || frame > region->pages - pages)
		return false;
	*pfn = region->pfn + frame;
	return true;
}

static pgprot_t with_cache(pgprot_t prot, unsigned int cache)
{
	static const enum page_cache_mode modes[PROBE_CACHES] = {
		[PROBE_CACHE_DEFAULT] = _PAGE_CACHE_MODE_WB,
		[PROBE_CACHE_WC] = _PAGE_CACHE_MODE_WC,
		[PROBE_CACHE_UC_MINUS] = _PAGE_CACHE_MODE_UC_MINUS,
		[PROBE_CACHE_UC] = _PAGE_CACHE_MODE_UC,
		[PROBE_CACHE_WT] = _PAGE_CACHE_MODE_WT,
		[PROBE_CACHE_WP] = _PAGE_CACHE_MODE_WP,
	};

	if (cache == PROBE_CACHE_DEFAULT)
		return prot;
	return __pgprot((pgprot_val(prot) & ~_PAGE_CACHE_MASK) | cachemode2protval(modes[cache]));
}

static int remap(struct vm_area_struct *vma, unsigned long pfn, unsigned long size)
{
	return remap_pfn_range(vma, vma->vm_start, pfn, size, vma->vm_page_prot);
}

static vm_fault_t probe_fault(struct vm_fault *vmf)
{
	struct vm_area_struct *vma = vmf->vma;
	struct probe_fill *fill = fill_of(vma);
	unsigned long address = vmf->address & PAGE_MASK;
	unsigned long pfn;

	if (fill->insert == PROBE_REMAP_FAULT) {
		if (!frame_at(fill, vma->vm_pgoff, vma_pages(vma), &pfn))
			return VM_FAULT_SIGBUS;
		return remap(vma, pfn, vma->vm_end - vma->vm_start) ? VM_FAULT_SIGBUS : VM_FAULT_NOPAGE;
	}
	if (!frame_at(fill, vmf->pgoff, 1, &pfn))
		return VM_FAULT_SIGBUS;
	switch (fill->insert) {
	case PROBE_REMAP_REFILL:
	case PROBE_FAULT_PFN:
	case PROBE_HUGE:
		return vmf_insert_pfn(vma, address, pfn);
	case PROBE_FAULT_PFN_PROT:
		return vmf_insert_pfn_prot(vma, address, pfn, with_cache(vma->vm_page_prot, fill->cache));
	case PROBE_MIXED:
		return probe_insert_mixed(vma, address, pfn);
	case PROBE_FAULT_PAGE:
		vmf->page = pfn_to_page(pfn);
		get_page(vmf->page);
		return 0;
	default:
		return VM_FAULT_SIGBUS;
	}
}

static int insert_pages(struct vm_area_struct *vma, unsigned long pfn)
{
	unsigned long address;
	int error = 0;

	for (address = vma->vm_start; address < vma->vm_end && !error; address += PAGE_SIZE, pfn++)
		error = vm_insert_page(vma, address, pfn_to_page(pfn));
	return error;
}

#if PROBE_HAS_HUGE
static vm_fault_t probe_huge_fault(struct vm_fault *vmf, probe_size size)
{
	struct vm_area_struct *vma = vmf->vma;
	unsigned long start = vmf->address & PMD_MASK;
	unsigned long pgoff = vma->vm_pgoff + ((start - vma->vm_start) >> PAGE_SHIFT);
	unsigned long pfn;

	/* no region is as large as a PUD */
	if (fill_of(vma)->insert != PROBE_HUGE || !PROBE_IS_PMD(size))
		return VM_FAULT_FALLBACK;
	if (start < vma->vm_start || start + PMD_SIZE > vma->vm_end)
		return VM_FAULT_FALLBACK;
	if (!frame_at(fill_of(vma), pgoff, PTRS_PER_PMD, &pfn) || !IS_ALIGNED(pfn, PTRS_PER_PMD))
		return VM_FAULT_FALLBACK;
	return probe_insert_pmd(vmf, pfn);
}
#endif

/* Its being there makes the first store to a shared page fault, as with drivers that track dirty pages. */
static vm_fault_t probe_pfn_mkwrite(struct vm_fault *vmf)
{
	return 0;
}

static const struct vm_operations_struct probe_vm_ops = {
	.fault = probe_fault,
	.pfn_mkwrite = probe_pfn_mkwrite,
};

/* Of pages that are counted: nothing is to be done at their first store. */
static const struct vm_operations_struct probe_page_vm_ops = {
	.fault = probe_fault,
};

/* Of their own, because the mere presence of ->huge_fault lets the kernel ask for huge leaves. */
static const struct vm_operations_struct probe_huge_vm_ops = {
	.fault = probe_fault,
	.pfn_mkwrite = probe_pfn_mkwrite,
#if PROBE_HAS_HUGE
	.huge_fault = probe_huge_fault,
#endif
};

/* Does the kernel count the pages as mapped? */
static bool maps_pages(unsigned int insert)
{
	return insert == PROBE_INSERT_PAGE || insert == PROBE_FAULT_PAGE;
}

static bool takes_copies(unsigned int insert)
{
	return insert == PROBE_REMAP || insert == PROBE_REMAP_PARTIAL || insert == PROBE_MIXED || insert == PROBE_NONE ||
		maps_pages(insert);
}

static int probe_mmap(struct file *file, struct vm_area_struct *vma)
{
	struct probe_file *probe = file->private_data;
	struct probe_fill *fill = &probe->fill;
	unsigned long size = vma->vm_end - vma->vm_start;
	bool copies = (vma->vm_flags & (VM_SHARED | VM_MAYWRITE)) == VM_MAYWRITE;
	unsigned long pfn;

	if (!READ_ONCE(probe->filled) || !frame_at(fill, vma->vm_pgoff, vma_pages(vma), &pfn))
		return -ENXIO;
	/* vmf_insert_pfn() into a mapping with copy on write is a BUG: refused here, as every driver does */
	if (copies && !takes_copies(fill->insert))
		return -EINVAL;

	vma->vm_ops = &probe_vm_ops;
	if (fill->insert == PROBE_HUGE)
		vma->vm_ops = &probe_huge_vm_ops;
	else if (maps_pages(fill->insert))
		vma->vm_ops = &probe_page_vm_ops;
	if (fill->insert != PROBE_FAULT_PFN_PROT)
		vma->vm_page_prot = with_cache(vma->vm_page_prot, fill->cache);
	switch (fill->insert) {
	case PROBE_REMAP:
	case PROBE_REMAP_REFILL:
		return remap(vma, pfn, size);
	case PROBE_REMAP_PARTIAL:
		return remap(vma, pfn, size / 2);
	case PROBE_MIXED:
		probe_vm_flags_set(vma, VM_MIXEDMAP);
		return 0;
	case PROBE_INSERT_PAGE:
		return insert_pages(vma, pfn);
	case PROBE_FAULT_PAGE:
	case PROBE_NONE:
		return 0;
	default:
		probe_vm_flags_set(vma, VM_IO | VM_PFNMAP | VM_DONTEXPAND | VM_DONTDUMP);
		return 0;
	}
}

/* -- looking ------------------------------------------------------------------------------------------------------ */

static struct mm_struct *mm_of(pid_t nr)
{
	struct mm_struct *mm = NULL;
	struct task_struct *task;
	struct pid *pid;

	if (!nr)
		return get_task_mm(current);
	pid = find_get_pid(nr);
	task = get_pid_task(pid, PIDTYPE_PID);
	put_pid(pid);
	if (task) {
		mm = get_task_mm(task);
		put_task_struct(task);
	}
	return mm;
}

static void walk(struct mm_struct *mm, struct probe_walk *at)
{
	unsigned long address = at->address;
	pgd_t *pgd = pgd_offset(mm, address);
	pgd_t pgd_now = READ_ONCE(*pgd);
	p4d_t *p4d, p4d_now;
	pud_t *pud, pud_now;
	pmd_t *pmd, pmd_now;

	at->level = 0;
	at->entry = pgd_val(pgd_now);
	if (pgd_none(pgd_now))
		return;
	p4d = p4d_offset(pgd, address);
	p4d_now = READ_ONCE(*p4d);
	at->level = 1;
	at->entry = p4d_val(p4d_now);
	if (p4d_none(p4d_now))
		return;
	pud = pud_offset(p4d, address);
	pud_now = READ_ONCE(*pud);
	at->level = 2;
	at->entry = pud_val(pud_now);
	if (!pud_present(pud_now) || (pud_val(pud_now) & _PAGE_PSE))
		return;
	pmd = pmd_offset(pud, address);
	pmd_now = READ_ONCE(*pmd);
	at->level = 3;
	at->entry = pmd_val(pmd_now);
	/* not pmd_present(), which counts a leaf under way to another frame as there */
	if (!(pmd_val(pmd_now) & _PAGE_PRESENT) || (pmd_val(pmd_now) & _PAGE_PSE))
		return;
	at->level = 4;
	at->entry = pte_val(READ_ONCE(*pte_offset_kernel(pmd, address)));
}

/* Is there an entry in a table? remap_pfn_range() over one is a BUG. */
static bool in_the_way(struct mm_struct *mm, const struct probe_put *put)
{
	struct probe_walk at;
	unsigned long n;

	for (n = 0; n < put->pages; n++) {
		at.address = put->address + (n << PAGE_SHIFT);
		walk(mm, &at);
		if (at.level == 4 && at.entry)
			return true;
	}
	return false;
}

/* What a driver may do to a mapping of its own from outside a fault, a leaf being there or not. */
static int probe_put(const struct probe_put *put)
{
	struct mm_struct *mm = current->mm;
	unsigned long size = put->pages << PAGE_SHIFT, pfn;
	struct vm_area_struct *vma;
	int error = -EFAULT;
	vm_fault_t fault;

	if (!PROBE_MINDS_LEAVES)
		return -EOPNOTSUPP;
	if (!put->pages || put->pages > PTRS_PER_PMD || put->address >= TASK_SIZE_MAX)
		return -EINVAL;
	mmap_write_lock(mm);
	vma = find_vma(mm, put->address);
	if (!vma || put->address < vma->vm_start || put->address + size > vma->vm_end)
		goto unlock;
	error = -EINVAL;
	if (vma->vm_ops != &probe_huge_vm_ops || !(vma->vm_flags & VM_PFNMAP))
		goto unlock;
	error = -ENXIO;
	if (!frame_at(fill_of(vma), vma->vm_pgoff + ((put->address - vma->vm_start) >> PAGE_SHIFT), put->pages, &pfn))
		goto unlock;
	if (put->remap) {
		error = -EBUSY;
		if (in_the_way(mm, put))
			goto unlock;
		error = remap_pfn_range(vma, put->address, pfn, size, vma->vm_page_prot);
	} else {
		fault = vmf_insert_pfn(vma, put->address, pfn);
		error = fault == VM_FAULT_NOPAGE ? 0 : fault == VM_FAULT_OOM ? -ENOMEM : -EFAULT;
	}
unlock:
	mmap_write_unlock(mm);
	return error;
}

static int probe_walk(struct probe_walk *at)
{
	struct mm_struct *mm;

	if (at->address >= TASK_SIZE_MAX)
		return -EINVAL;
	mm = mm_of(at->pid);
	if (!mm)
		return -ESRCH;
	/*
	 * The lock keeps munmap() from freeing tables under the walk; RCU keeps
	 * what the kernel may free with the lock held for reading (since 6.14).
	 */
	mmap_read_lock(mm);
	rcu_read_lock();
	walk(mm, at);
	rcu_read_unlock();
	mmap_read_unlock(mm);
	mmput(mm);
	return 0;
}

static void probe_frame(struct probe_frame *frame)
{
	struct page *page;

	frame->valid = pfn_valid(frame->pfn);
	frame->refs = 0;
	frame->maps = 0;
	if (!frame->valid)
		return;
	page = pfn_to_page(frame->pfn);
	frame->refs = page_ref_count(page);
	frame->maps = probe_mapcount(page);
}

static int probe_region(struct probe_region *answer)
{
	const struct region *region;

	if (answer->index >= PROBE_REGIONS)
		return -EINVAL;
	region = &regions[answer->index];
	answer->pfn = region->pfn;
	answer->pages = region->pages;
	answer->valid = pfn_valid(region->pfn);
	answer->reserved = answer->valid && PageReserved(pfn_to_page(region->pfn));
	return 0;
}

/* Where a PCI function's IOMMU domain has an address of its. */
static int probe_iova(struct probe_iova *at)
{
	struct pci_dev *function = pci_get_domain_bus_and_slot(at->domain, at->bus, at->devfn);
	struct iommu_domain *domain;

	if (!function)
		return -ENODEV;
	domain = iommu_get_domain_for_dev(&function->dev);
	at->address = domain ? iommu_iova_to_phys(domain, at->iova) : 0;
	pci_dev_put(function);
	return domain ? 0 : -ENODEV;
}

/* -- holding pages ------------------------------------------------------------------------------------------------ */

/* FOLL_* of a request; false: this kernel has no such flag. */
static bool gup_flags(u32 flags, unsigned int *foll)
{
	*foll = 0;
	if (flags & PROBE_PIN_WRITE)
		*foll |= FOLL_WRITE;
	if (flags & PROBE_PIN_FORCE)
		*foll |= FOLL_FORCE;
	if (flags & PROBE_PIN_LONGTERM)
		*foll |= FOLL_LONGTERM;
	if (flags & PROBE_PIN_NOWAIT)
		*foll |= FOLL_NOWAIT;
	if (flags & PROBE_PIN_NOFAULT)
		*foll |= PROBE_FOLL_NOFAULT;
	if (flags & PROBE_PIN_DUMP)
		*foll |= FOLL_DUMP;
	return PROBE_FOLL_NOFAULT || !(flags & PROBE_PIN_NOFAULT);
}

/*
 * No lock of the module's is held: a long-term pin may go round for ever, until its caller is killed, and others have to
 * get by.
 */
static long grab(const struct probe_pin *pin, struct mm_struct *mm, unsigned int foll, struct page **pages)
{
	int locked = 1, *may_drop = pin->flags & PROBE_PIN_LOCKED ? &locked : NULL;
	long got;

	switch (pin->variant) {
	case PROBE_GET_FAST:
		return get_user_pages_fast(pin->address, pin->pages, foll, pages);
	case PROBE_GET_FAST_ONLY:
		return get_user_pages_fast_only(pin->address, pin->pages, foll, pages);
	case PROBE_GET_UNLOCKED:
		return get_user_pages_unlocked(pin->address, pin->pages, pages, foll);
	case PROBE_PIN_FAST:
		return pin_user_pages_fast(pin->address, pin->pages, foll, pages);
	case PROBE_PIN_UNLOCKED:
		return pin_user_pages_unlocked(pin->address, pin->pages, pages, foll);
	}
	if (mmap_read_lock_killable(mm))
		return -EINTR;
	switch (pin->variant) {
	case PROBE_GET:
		got = probe_get_user_pages(pin->address, pin->pages, foll, pages);
		break;
	case PROBE_GET_REMOTE:
		got = probe_get_user_pages_remote(mm, pin->address, pin->pages, foll, pages, may_drop);
		break;
	case PROBE_PIN:
		got = probe_pin_user_pages(pin->address, pin->pages, foll, pages);
		break;
	default:
		got = probe_pin_user_pages_remote(mm, pin->address, pin->pages, foll, pages, may_drop);
		break;
	}
	if (locked)
		mmap_read_unlock(mm);
	return got;
}

static int probe_pin(struct probe_file *probe, struct probe_pin *pin)
{
	bool remote = pin->variant == PROBE_GET_REMOTE || pin->variant == PROBE_PIN_REMOTE;
	struct mm_struct *mm;
	struct hold *hold;
	unsigned int foll;
	int n;

	if (pin->variant >= PROBE_PIN_VARIANTS || pin->flags & ~PROBE_PIN_FLAGS || !pin->pages ||
	    pin->pages > PROBE_PIN_PAGES || (!remote && (pin->pid || pin->flags & PROBE_PIN_LOCKED)))
		return -EINVAL;
	if (!gup_flags(pin->flags, &foll))
		return -EOPNOTSUPP;
	mm = mm_of(pin->pid);
	if (!mm)
		return -ESRCH;
	/* of nothing but NULL, so that a slot which the kernel says it filled and did not can be told from one it did */
	hold = kzalloc(sizeof(*hold), GFP_KERNEL);
	if (!hold) {
		mmput(mm);
		return -ENOMEM;
	}
	hold->number = pin->hold;
	hold->pinned = pin->variant >= PROBE_PIN;
	pin->got = grab(pin, mm, foll, hold->pages);
	mmput(mm);
	for (n = 0; n < PROBE_PIN_PAGES; n++) {
		if (n < pin->got && hold->pages[n])
			pin->pfn[n] = page_to_pfn(hold->pages[n]);
		else
			pin->pfn[n] = PROBE_NO_PFN;
	}
	if (pin->got <= 0) {
		kfree(hold);
		return 0;
	}
	hold->count = pin->got;
	mutex_lock(&probe->lock);
	list_add_tail(&hold->list, &probe->holds);
	mutex_unlock(&probe->lock);
	return 0;
}

static unsigned int let_go(struct hold *hold, bool dirty)
{
	unsigned int released = 0, n;
	struct page *page;

	for (n = 0; n < hold->count; n++) {
		page = hold->pages[n];
		if (!page)
			continue;
		if (hold->pinned) {
			unpin_user_pages_dirty_lock(&page, 1, dirty);
		} else {
			if (dirty)
				set_page_dirty_lock(page);
			put_page(page);
		}
		released++;
	}
	kfree(hold);
	return released;
}

static int probe_unpin(struct probe_file *probe, struct probe_unpin *unpin)
{
	struct hold *hold, *next;
	LIST_HEAD(found);

	mutex_lock(&probe->lock);
	list_for_each_entry_safe(hold, next, &probe->holds, list)
		if (unpin->all || hold->number == unpin->hold)
			list_move_tail(&hold->list, &found);
	mutex_unlock(&probe->lock);
	unpin->released = 0;
	list_for_each_entry_safe(hold, next, &found, list)
		unpin->released += let_go(hold, unpin->dirty);
	return 0;
}

/* -- notifier events ---------------------------------------------------------------------------------------------- */

static u32 event_type(enum mmu_notifier_event event)
{
	if (probe_is_exclusive(event))
		return PROBE_EVENT_EXCLUSIVE;
	switch (event) {
	case MMU_NOTIFY_UNMAP:
		return PROBE_EVENT_UNMAP;
	case MMU_NOTIFY_CLEAR:
		return PROBE_EVENT_CLEAR;
	case MMU_NOTIFY_PROTECTION_VMA:
		return PROBE_EVENT_PROTECTION_VMA;
	case MMU_NOTIFY_PROTECTION_PAGE:
		return PROBE_EVENT_PROTECTION_PAGE;
	case MMU_NOTIFY_SOFT_DIRTY:
		return PROBE_EVENT_SOFT_DIRTY;
	case MMU_NOTIFY_RELEASE:
		return PROBE_EVENT_RELEASE;
	case MMU_NOTIFY_MIGRATE:
		return PROBE_EVENT_MIGRATE;
	default:
		return PROBE_EVENT_OTHER;
	}
}

static void note(struct mmu_notifier *notifier, const struct mmu_notifier_range *range, u32 end)
{
	struct watch *watch = container_of(notifier, struct watch, notifier);
	struct probe_event *event;

	spin_lock(&watch->lock);
	if (watch->count < EVENTS_KEPT) {
		event = &watch->events[watch->count++];
		event->type = event_type(range->event);
		event->end = end;
		event->first = range->start;
		event->last = range->end;
	} else {
		watch->lost++;
	}
	spin_unlock(&watch->lock);
}

static int note_start(struct mmu_notifier *notifier, const struct mmu_notifier_range *range)
{
	note(notifier, range, 0);
	return 0;
}

static void note_end(struct mmu_notifier *notifier, const struct mmu_notifier_range *range)
{
	note(notifier, range, 1);
}

static const struct mmu_notifier_ops watch_ops = {
	.invalidate_range_start = note_start,
	.invalidate_range_end = note_end,
};

static int probe_watch(struct probe_file *probe, pid_t pid)
{
	struct watch *watch;
	int error = -EBUSY;

	mutex_lock(&probe->lock);
	if (probe->watch)
		goto unlock;
	error = -ENOMEM;
	watch = kzalloc(sizeof(*watch), GFP_KERNEL);
	if (!watch)
		goto unlock;
	spin_lock_init(&watch->lock);
	watch->notifier.ops = &watch_ops;
	error = -ESRCH;
	watch->mm = mm_of(pid);
	if (!watch->mm)
		goto free;
	/* the notifier holds the mm_struct from here on; the address space may go before it */
	error = mmu_notifier_register(&watch->notifier, watch->mm);
	mmput(watch->mm);
	if (error)
		goto free;
	probe->watch = watch;
	goto unlock;
free:
	kfree(watch);
unlock:
	mutex_unlock(&probe->lock);
	return error;
}

static int probe_events(struct probe_file *probe, void __user *to)
{
	struct watch *watch;
	struct probe_events *out;
	unsigned int left;
	int error = 0;

	out = kzalloc(sizeof(*out), GFP_KERNEL);
	if (!out)
		return -ENOMEM;
	mutex_lock(&probe->lock);
	watch = probe->watch;
	if (watch) {
		spin_lock(&watch->lock);
		out->count = min_t(unsigned int, watch->count, PROBE_EVENTS_AT_ONCE);
		out->lost = watch->lost;
		left = watch->count - out->count;
		memcpy(out->events, watch->events, out->count * sizeof(out->events[0]));
		memmove(watch->events, watch->events + out->count, left * sizeof(out->events[0]));
		watch->count = left;
		watch->lost = 0;
		spin_unlock(&watch->lock);
	}
	mutex_unlock(&probe->lock);
	if (!watch)
		error = -EINVAL;
	else if (copy_to_user(to, out, sizeof(*out)))
		error = -EFAULT;
	kfree(out);
	return error;
}

/* -- the file ----------------------------------------------------------------------------------------------------- */

static u32 known_inserts(void)
{
	u32 all = (1U << PROBE_INSERTS) - 1;

	return PROBE_HAS_HUGE ? all : all & ~(1U << PROBE_HUGE);
}

static int probe_set_fill(struct probe_file *probe, const struct probe_fill *fill)
{
	int error = 0;

	if (fill->region >= PROBE_REGIONS || fill->insert >= PROBE_INSERTS || fill->cache >= PROBE_CACHES)
		return -EINVAL;
	if (!(known_inserts() & 1U << fill->insert))
		return -EOPNOTSUPP;
	/* only pages of the module's own may be counted as mapped ones are */
	if (maps_pages(fill->insert) && fill->region != PROBE_REGION_RAM)
		return -EINVAL;
	mutex_lock(&probe->lock);
	if (probe->filled) {
		error = -EBUSY;	/* there may be mappings that live by it */
	} else {
		probe->fill = *fill;
		WRITE_ONCE(probe->filled, true);
	}
	mutex_unlock(&probe->lock);
	return error;
}

static int probe_unmap(struct file *file, const struct probe_range *range)
{
	if (range->page >= LLONG_MAX >> PAGE_SHIFT || range->pages > (LLONG_MAX >> PAGE_SHIFT) - range->page)
		return -EINVAL;
	unmap_mapping_range(file->f_mapping, range->page << PAGE_SHIFT, range->pages << PAGE_SHIFT, 1);
	return 0;
}

static long probe_ioctl(struct file *file, unsigned int command, unsigned long argument)
{
	struct probe_file *probe = file->private_data;
	void __user *user = (void __user *)argument;
	union {
		struct probe_info info;
		struct probe_region region;
		struct probe_fill fill;
		struct probe_range range;
		struct probe_walk walk;
		struct probe_frame frame;
		struct probe_pin pin;
		struct probe_unpin unpin;
		struct probe_iova iova;
		struct probe_put put;
		s32 pid;
	} u = {};
	long error = 0;

	if (command == PROBE_IOC_EVENTS)
		return probe_events(probe, user);
	if (_IOC_SIZE(command) > sizeof(u))
		return -ENOTTY;
	if (_IOC_DIR(command) & _IOC_WRITE && copy_from_user(&u, user, _IOC_SIZE(command)))
		return -EFAULT;
	switch (command) {
	case PROBE_IOC_INFO:
		u.info.version = PROBE_VERSION;
		u.info.inserts = known_inserts();
		break;
	case PROBE_IOC_REGION:
		error = probe_region(&u.region);
		break;
	case PROBE_IOC_FILL:
		error = probe_set_fill(probe, &u.fill);
		break;
	case PROBE_IOC_UNMAP:
		error = probe_unmap(file, &u.range);
		break;
	case PROBE_IOC_WALK:
		error = probe_walk(&u.walk);
		break;
	case PROBE_IOC_FRAME:
		probe_frame(&u.frame);
		break;
	case PROBE_IOC_WATCH:
		error = probe_watch(probe, u.pid);
		break;
	case PROBE_IOC_PIN:
		error = probe_pin(probe, &u.pin);
		break;
	case PROBE_IOC_UNPIN:
		error = probe_unpin(probe, &u.unpin);
		break;
	case PROBE_IOC_PUT:
		error = probe_put(&u.put);
		break;
	case PROBE_IOC_IOVA:
		error = probe_iova(&u.iova);
		break;
	default:
		return -ENOTTY;
	}
	if (!error && _IOC_DIR(command) & _IOC_READ && copy_to_user(user, &u, _IOC_SIZE(command)))
		error = -EFAULT;
	return error;
}

static int probe_open(struct inode *inode, struct file *file)
{
	struct probe_file *probe = kzalloc(sizeof(*probe), GFP_KERNEL);

	if (!probe)
		return -ENOMEM;
	mutex_init(&probe->lock);
	INIT_LIST_HEAD(&probe->holds);
	file->private_data = probe;
	return nonseekable_open(inode, file);
}

static int probe_release(struct inode *inode, struct file *file)
{
	struct probe_file *probe = file->private_data;
	struct probe_unpin everything = { .all = 1 };

	probe_unpin(probe, &everything);
	if (probe->watch) {
		mmu_notifier_unregister(&probe->watch->notifier, probe->watch->mm);
		kfree(probe->watch);
	}
	kfree(probe);
	return 0;
}

static const struct file_operations probe_fops = {
	.owner = THIS_MODULE,
	.open = probe_open,
	.release = probe_release,
	.mmap = probe_mmap,
	.unlocked_ioctl = probe_ioctl,
};

static struct miscdevice probe_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "mmlitmus_probe",
	.fops = &probe_fops,
	.mode = 0600,
};

/* -- loading ------------------------------------------------------------------------------------------------------ */

/* Only what the kernel has not taken for itself: a process gets to write what is mapped here. */
static int set_region(unsigned int index, const char *name, unsigned long address, unsigned long size)
{
	if (!address)
		return 0;
	if (!size || !PAGE_ALIGNED(address | size)) {
		pr_err("%s: 0x%lx,0x%lx is not whole pages\n", name, address, size);
		return -EINVAL;
	}
	if (region_intersects(address, size, IORESOURCE_SYSTEM_RAM, IORES_DESC_NONE) != REGION_DISJOINT) {
		pr_err("%s: 0x%lx,0x%lx is memory that the kernel uses\n", name, address, size);
		return -EBUSY;
	}
	regions[index].pfn = address >> PAGE_SHIFT;
	regions[index].pages = size >> PAGE_SHIFT;
	return 0;
}

static int set_bar(void)
{
	struct pci_dev *function = NULL;
	unsigned long size = 0;
	int n;

	if (!bar)
		return 0;
	for_each_pci_dev(function)
		for (n = 0; n < PCI_STD_NUM_BARS; n++)
			if (pci_resource_flags(function, n) & IORESOURCE_MEM && pci_resource_start(function, n) == bar)
				size = pci_resource_len(function, n);
	if (!size) {
		pr_err("bar: no PCI function has a BAR at 0x%lx\n", bar);
		return -ENODEV;
	}
	return set_region(PROBE_REGION_BAR, "bar", bar, size);
}

static void free_ram(void)
{
	int n;

	for (n = 0; n < 1 << RAM_ORDER; n++)
		__free_page(ram + n);
}

static int __init probe_init(void)
{
	int error;

	error = set_region(PROBE_REGION_RESERVED, "resv", resv[0], resv[1]);
	if (!error)
		error = set_region(PROBE_REGION_HOLE, "hole", hole[0], hole[1]);
	if (!error)
		error = set_bar();
	if (error)
		return error;
	/* what is movable by its zone and on no LRU list can be migrated by nobody: a long-term pin may wait for that */
	ram = alloc_pages((movable ? GFP_HIGHUSER_MOVABLE : GFP_KERNEL) | __GFP_ZERO, RAM_ORDER);
	if (!ram)
		return -ENOMEM;
	split_page(ram, RAM_ORDER);	/* each is counted for itself: some ways to map one count it */
	regions[PROBE_REGION_RAM].pfn = page_to_pfn(ram);
	regions[PROBE_REGION_RAM].pages = 1UL << RAM_ORDER;
	error = misc_register(&probe_device);
	if (error)
		free_ram();
	return error;
}

static void __exit probe_exit(void)
{
	misc_deregister(&probe_device);
	free_ram();
}

module_init(probe_init);
module_exit(probe_exit);
MODULE_DESCRIPTION("mmlitmus: device mappings of every kind, and a look at what they are");
MODULE_LICENSE("GPL");
