#include "base/resident.h"

#include <link.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"

/* --- code --- */

/* Has the loader written to segments that are not writable now? */
static bool has_text_relocations(const struct dl_phdr_info *info)
{
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *ph = &info->dlpi_phdr[i];
        if (ph->p_type != PT_DYNAMIC)
            continue;
        for (const ElfW(Dyn) *d = (const void *)(info->dlpi_addr + ph->p_vaddr); d->d_tag != DT_NULL; d++)
            if (d->d_tag == DT_TEXTREL || (d->d_tag == DT_FLAGS && d->d_un.d_val & DF_TEXTREL))
                return true;
    }
    return false;
}

/* The program or one library. A segment that was never written to has nothing that is not in its file. */
static int forget_object(struct dl_phdr_info *info, size_t size, void *arg)
{
    (void)size, (void)arg;
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    if (has_text_relocations(info))
        return 0;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *ph = &info->dlpi_phdr[i];
        if (ph->p_type != PT_LOAD || ph->p_flags & PF_W)
            continue;
        /* Whole pages only: the first and the last one may have something of another segment too. */
        uintptr_t from = (info->dlpi_addr + ph->p_vaddr + page - 1) & ~(page - 1);
        uintptr_t to = (info->dlpi_addr + ph->p_vaddr + ph->p_filesz) & ~(page - 1);
        if (from < to)
            (void)madvise((void *)from, to - from, MADV_DONTNEED);
    }
    return 0;
}

void resident_forget_code(void)
{
    (void)dl_iterate_phdr(forget_object, NULL);
}

/* --- mapped files --- */

static _Atomic int64_t paused_until_ns; /* clock_mono_ns */

struct resident_map *resident_map_new(const void *p, size_t n_bytes, size_t max_bytes)
{
    ASSERT(n_bytes > 0);
    const struct resident_map where = {.p = (char *)(uintptr_t)p};
    size_t n_words = resident_window(&where, where.p + n_bytes - 1) / 64 + 1;
    struct resident_map *m = calloc(1, sizeof(*m) + n_words * sizeof(m->seen[0]));
    ASSERT(m);
    m->p = where.p;
    m->n_bytes = n_bytes;
    m->max_windows = max_bytes >> RESIDENT_WINDOW_SHIFT;
    m->pause_ns = RESIDENT_PAUSE_NS;
    m->n_words = n_words;
    return m;
}

void resident_map_free(struct resident_map *m)
{
    free(m);
}

void resident_map_note(struct resident_map *m, size_t window)
{
    const uint64_t bit = UINT64_C(1) << window % 64;
    if (atomic_fetch_or_explicit(&m->seen[window / 64], bit, memory_order_relaxed) & bit)
        return;
    size_t n_mapped = atomic_fetch_add_explicit(&m->n_seen, 1, memory_order_relaxed);
    if (n_mapped < m->max_windows)
        return;
    int64_t now_ns = clock_mono_ns(), until_ns = atomic_load_explicit(&paused_until_ns, memory_order_relaxed);
    /* Of several threads that find it one too many the first one goes on. */
    if (now_ns < until_ns
        || !atomic_compare_exchange_strong_explicit(&paused_until_ns, &until_ns, now_ns + (int64_t)n_mapped * m->pause_ns, memory_order_relaxed, memory_order_relaxed))
        return;
    (void)madvise(m->p, m->n_bytes, MADV_DONTNEED);
    for (size_t i = 0; i < m->n_words; i++)
        atomic_store_explicit(&m->seen[i], 0, memory_order_relaxed);
    /* The window that was one too many is about to be mapped. */
    atomic_fetch_or_explicit(&m->seen[window / 64], bit, memory_order_relaxed);
    atomic_store_explicit(&m->n_seen, 1, memory_order_relaxed);
}
