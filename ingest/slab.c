#include "ingest/slab_int.h"

#include <string.h>

/* Sizes in units of 16 bytes: every one up to 128 bytes, then four a doubling. Up to class 13 (320 bytes) a run is one
 * page. */
const uint16_t slab_class_units[SLAB_CLASSES] = {1,  2,  3,  4,  5,  6,  7,  8,  10, 12, 14,  16,  18,
                                                 20, 24, 28, 32, 36, 42, 51, 56, 66, 85, 102, 128, 192};
#define SLAB_SMALL_CLASSES 14
#define SLAB_RUN_PAGES 4u
#define SLAB_GIVE_BACK_PAGES 4u /* each costs a system call, that interrupts the other cores */

static uint32_t class_run_pages(uint8_t cls)
{
    return cls < SLAB_SMALL_CLASSES ? 1 : SLAB_RUN_PAGES;
}

static uint32_t class_blocks(uint8_t cls)
{
    return class_run_pages(cls) * SLAB_PAGE_UNITS / slab_class_units[cls];
}

static uint8_t class_of(size_t n)
{
    size_t units = (n + SLAB_UNIT - 1) / SLAB_UNIT;
    if (units <= 8)
        return (uint8_t)(units - 1);
    uint8_t c = 8;
    while (slab_class_units[c] < units)
        c++;
    return c;
}

void slabs_release(struct slabs *s)
{
    region_release(&s->mem);
    region_release(&s->pages);
    s->state = (struct slabs_state){0};
}

static uint32_t page_count(const struct slabs *s)
{
    return (uint32_t)(s->pages.n / sizeof(struct slab_page));
}

/* --- lists of runs --- */

static void list_push(struct slabs *s, uint32_t *head, uint32_t page)
{
    struct slab_page *pages = slab_pages(s);
    pages[page].prev = 0;
    pages[page].next = *head;
    if (*head)
        pages[*head - 1].prev = page + 1;
    *head = page + 1;
}

static void list_remove(struct slabs *s, uint32_t *head, uint32_t page)
{
    struct slab_page *pages = slab_pages(s);
    if (pages[page].prev)
        pages[pages[page].prev - 1].next = pages[page].next;
    else
        *head = pages[page].next;
    if (pages[page].next)
        pages[pages[page].next - 1].prev = pages[page].prev;
}

static uint32_t *bin_of(struct slabs *s, uint32_t n_pages)
{
    return &s->state.bins[MIN(n_pages, (uint32_t)SLAB_BINS) - 1];
}

/* --- runs of pages --- */

static void run_mark(struct slabs *s, uint32_t first, uint32_t n, enum slab_page_kind kind)
{
    struct slab_page *pages = slab_pages(s);
    for (uint32_t i = 1; i < n; i++)
        pages[first + i] = (struct slab_page){.kind = SLAB_INSIDE, .first = first};
    pages[first] = (struct slab_page){.kind = (uint8_t)kind, .pages = n, .first = first};
}

static void run_put_free(struct slabs *s, uint32_t first, uint32_t n)
{
    struct slab_page *pages = slab_pages(s);
    pages[first] = (struct slab_page){.kind = SLAB_FREE, .pages = n, .first = first};
    if (n > 1)
        pages[first + n - 1] = (struct slab_page){.kind = SLAB_FREE, .pages = n, .first = first};
    list_push(s, bin_of(s, n), first);
}

static void run_free(struct slabs *s, uint32_t first)
{
    struct slab_page *pages = slab_pages(s);
    uint32_t n = pages[first].pages;
    if (first > 0 && pages[first - 1].kind == SLAB_FREE) {
        uint32_t before = pages[first - 1].first;
        list_remove(s, bin_of(s, pages[before].pages), before);
        n += first - before;
        first = before;
    }
    uint32_t after = first + n;
    if (after < page_count(s) && pages[after].kind == SLAB_FREE) {
        list_remove(s, bin_of(s, pages[after].pages), after);
        n += pages[after].pages;
    }
    run_put_free(s, first, n);
}

static uint32_t run_take(struct slabs *s, uint32_t *bin, uint32_t first, uint32_t n, enum slab_page_kind kind)
{
    uint32_t have = slab_pages(s)[first].pages;
    list_remove(s, bin, first);
    if (have > n)
        run_put_free(s, first + n, have - n);
    run_mark(s, first, n, kind);
    return first;
}

static uint32_t run_alloc(struct slabs *s, uint32_t n, enum slab_page_kind kind)
{
    for (uint32_t b = MIN(n, (uint32_t)SLAB_BINS) - 1; b < SLAB_BINS; b++) {
        /* Only the last bin mixes lengths; a few dozen runs are looked at there, then the region grows instead. */
        uint32_t at = s->state.bins[b];
        for (int tries = 0; at && tries < 32; tries++) {
            if (slab_pages(s)[at - 1].pages >= n)
                return run_take(s, &s->state.bins[b], at - 1, n, kind);
            at = slab_pages(s)[at - 1].next;
        }
    }
    uint32_t first = page_count(s);
    ASSERT((uint64_t)first + n <= UINT32_MAX / SLAB_PAGE_UNITS);
    region_extend(&s->mem, (size_t)n * SLAB_PAGE);
    region_extend(&s->pages, n * sizeof(struct slab_page));
    run_mark(s, first, n, kind);
    return first;
}

/* A run that is merged or divided has a new descriptor, and is looked at again. */
static void run_give_back(struct slabs *s, uint32_t first)
{
    struct slab_page *run = &slab_pages(s)[first];
    if (run->used)
        return;
    region_forget(&s->mem, (size_t)first * SLAB_PAGE, (size_t)run->pages * SLAB_PAGE);
    run->used = 1;
}

void slabs_give_back(struct slabs *s)
{
    for (uint32_t b = SLAB_GIVE_BACK_PAGES - 1; b < SLAB_BINS; b++)
        for (uint32_t at = s->state.bins[b]; at; at = slab_pages(s)[at - 1].next)
            run_give_back(s, at - 1);
}

/* --- blocks --- */

static uint32_t handle_of(uint32_t page, uint32_t units)
{
    return page * SLAB_PAGE_UNITS + units + 1;
}

/* The run that a handle's block lies in. */
static uint32_t run_of(const struct slabs *s, uint32_t handle)
{
    return slab_pages(s)[(handle - 1) / SLAB_PAGE_UNITS].first;
}

uint32_t slab_alloc(struct slabs *s, size_t n)
{
    ASSERT(n > 0);
    if (n > SLAB_MAX_CLASS_BYTES) {
        size_t pages = (n + SLAB_PAGE - 1) / SLAB_PAGE;
        ASSERT(pages < UINT32_MAX / SLAB_PAGE_UNITS);
        return handle_of(run_alloc(s, (uint32_t)pages, SLAB_LARGE), 0);
    }
    uint8_t cls = class_of(n);
    if (!s->state.partial[cls]) {
        uint32_t first = run_alloc(s, class_run_pages(cls), SLAB_BLOCKS);
        slab_pages(s)[first].cls = cls;
        list_push(s, &s->state.partial[cls], first);
    }
    uint32_t first = s->state.partial[cls] - 1;
    struct slab_page *run = &slab_pages(s)[first];
    uint32_t block;
    if (run->free) {
        block = run->free - 1u;
        memcpy(&run->free, slab_ptr(s, handle_of(first, block * slab_class_units[cls])), sizeof(run->free));
    } else {
        block = run->bump++;
    }
    if (++run->used == class_blocks(cls))
        list_remove(s, &s->state.partial[cls], first);
    return handle_of(first, block * slab_class_units[cls]);
}

void slab_free(struct slabs *s, uint32_t handle)
{
    uint32_t first = run_of(s, handle);
    struct slab_page *run = &slab_pages(s)[first];
    if (run->kind == SLAB_LARGE) {
        run_free(s, first);
        return;
    }
    ASSERT(run->kind == SLAB_BLOCKS && run->used > 0);
    uint32_t block = (handle - 1 - first * SLAB_PAGE_UNITS) / slab_class_units[run->cls];
    memcpy(slab_ptr(s, handle), &run->free, sizeof(run->free));
    run->free = (uint16_t)(block + 1);
    if (run->used-- == class_blocks(run->cls))
        list_push(s, &s->state.partial[run->cls], first);
    if (run->used == 0) {
        list_remove(s, &s->state.partial[run->cls], first);
        run_free(s, first);
    }
}

uint32_t slab_move(struct slabs *s, uint32_t handle, size_t n, size_t keep)
{
    uint32_t moved = slab_alloc(s, n);
    memcpy(slab_ptr(s, moved), slab_ptr(s, handle), keep);
    slab_free(s, handle);
    return moved;
}

size_t slab_size(const struct slabs *s, uint32_t handle)
{
    const struct slab_page *run = &slab_pages(s)[run_of(s, handle)];
    return run->kind == SLAB_LARGE ? (size_t)run->pages * SLAB_PAGE : (size_t)slab_class_units[run->cls] * SLAB_UNIT;
}

/* --- what came back from disk --- */

static bool verify_blocks(const struct slabs *s, uint32_t first)
{
    const struct slab_page *run = &slab_pages(s)[first];
    if (run->cls >= SLAB_CLASSES || run->pages != class_run_pages(run->cls))
        return false;
    uint32_t blocks = class_blocks(run->cls);
    if (run->bump > blocks || run->used == 0 || run->used > run->bump)
        return false;
    uint32_t n_free = 0;
    uint16_t at = run->free;
    while (at) {
        if (at > run->bump || ++n_free > run->bump)
            return false;
        memcpy(&at, slab_ptr(s, handle_of(first, (at - 1u) * slab_class_units[run->cls])), sizeof(at));
    }
    return run->used + n_free == run->bump;
}

/* Walks one list; returns its length, or UINT32_MAX when it is no list of runs of this kind. */
static uint32_t verify_list(const struct slabs *s, uint32_t head, enum slab_page_kind kind, uint32_t which)
{
    const struct slab_page *pages = slab_pages(s);
    uint32_t n = 0;
    uint32_t prev = 0;
    for (uint32_t at = head; at; at = pages[at - 1].next) {
        if (at > page_count(s) || n++ > page_count(s))
            return UINT32_MAX;
        const struct slab_page *p = &pages[at - 1];
        if (p->kind != kind || p->first != at - 1 || p->prev != prev)
            return UINT32_MAX;
        bool fits = kind == SLAB_FREE ? MIN(p->pages, (uint32_t)SLAB_BINS) - 1 == which
                                      : p->cls == which && p->used < class_blocks(p->cls);
        if (!fits)
            return UINT32_MAX;
        prev = at;
    }
    return n;
}

/* One run from `first` on; returns its length in pages, 0 when it is wrong. */
static uint32_t verify_run(struct slabs *s, uint32_t first, uint32_t *n_partial, uint32_t *n_free)
{
    struct slab_page *pages = slab_pages(s);
    uint32_t n = pages[first].pages;
    if (n == 0 || n > page_count(s) - first || pages[first].first != first)
        return 0;
    if (pages[first].kind == SLAB_FREE) {
        const struct slab_page *last = &pages[first + n - 1];
        (*n_free)++;
        if (last->kind != SLAB_FREE || last->pages != n || last->first != first)
            return 0;
        pages[first].used = 0; /* loading has written it */
        /* What stands between is left over from earlier runs: slab_check must not take it for blocks. */
        for (uint32_t i = 1; i + 1 < n; i++)
            pages[first + i].kind = SLAB_FREE;
        return n;
    }
    for (uint32_t i = 1; i < n; i++)
        if (pages[first + i].kind != SLAB_INSIDE || pages[first + i].first != first)
            return 0;
    if (pages[first].kind == SLAB_LARGE)
        return n;
    if (pages[first].kind != SLAB_BLOCKS || !verify_blocks(s, first))
        return 0;
    if (pages[first].used < class_blocks(pages[first].cls))
        (*n_partial)++;
    return n;
}

bool slabs_verify(struct slabs *s)
{
    uint32_t n = page_count(s);
    if (s->pages.n != (size_t)n * sizeof(struct slab_page) || s->mem.n != (size_t)n * SLAB_PAGE ||
        n > UINT32_MAX / SLAB_PAGE_UNITS)
        return false;
    uint32_t n_partial = 0;
    uint32_t n_free = 0;
    for (uint32_t at = 0; at < n;) {
        uint32_t len = verify_run(s, at, &n_partial, &n_free);
        if (len == 0)
            return false;
        at += len;
    }
    uint64_t listed_partial = 0;
    uint64_t listed_free = 0;
    for (uint32_t c = 0; c < SLAB_CLASSES; c++)
        listed_partial += verify_list(s, s->state.partial[c], SLAB_BLOCKS, c);
    for (uint32_t b = 0; b < SLAB_BINS; b++)
        listed_free += verify_list(s, s->state.bins[b], SLAB_FREE, b);
    return listed_partial == n_partial && listed_free == n_free;
}

bool slab_check(const struct slabs *s, uint32_t handle, size_t n)
{
    if (handle == 0 || (handle - 1) / SLAB_PAGE_UNITS >= page_count(s))
        return false;
    const struct slab_page *page = &slab_pages(s)[(handle - 1) / SLAB_PAGE_UNITS];
    if (page->kind == SLAB_FREE)
        return false;
    uint32_t first = page->first; /* slabs_verify has seen that it is a run's first page */
    const struct slab_page *run = &slab_pages(s)[first];
    uint32_t units = handle - 1 - first * SLAB_PAGE_UNITS;
    if (run->kind == SLAB_LARGE)
        return units == 0 && n <= (size_t)run->pages * SLAB_PAGE;
    return run->kind == SLAB_BLOCKS && units % slab_class_units[run->cls] == 0 &&
           units / slab_class_units[run->cls] < run->bump && n <= (size_t)slab_class_units[run->cls] * SLAB_UNIT;
}
