/*
 * Hints of the newest records, so that a consumer in this process neither reads nor decodes what its producer has just
 * parsed.
 *
 * Two views of the same entries: by partition and offset (a ring of pointers, power of two), and one list over all
 * partitions in the order of becoming durable, from whose old end entries go when there are more bytes than allowed. A
 * hint leaves with the first fetch that takes it: what is held is what the consumer has not seen yet. Everything here
 * runs under e->lock, but for tail_free_dropped.
 *
 * Bounds: -ingest-storage.embedded.max-hint-bytes over all partitions; TAIL_MAX_SLOTS offsets a partition.
 */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "log/embedded_int.h"

#define TAIL_MIN_SLOTS 64
#define TAIL_MAX_SLOTS 65536

struct tail_entry {
    struct tail_entry *older, *newer; /* the list over all partitions */
    int64_t offset;
    int64_t timestamp_ms;
    struct plog_hint *hint; /* one reference */
    size_t bytes;           /* counted against the bound */
    size_t value_bytes;
    int32_t partition;
    uint32_t version;
    enum plog_value_form form;
    uint32_t tenant_len;
    char tenant[];
};

static struct tail_entry **slot_of(struct tail *t, int64_t offset)
{
    return &t->slot[(uint64_t)offset & (t->cap - 1)];
}

/* Takes the entry out of both views. */
static void entry_unlink(struct embedded *e, struct tail_entry *x)
{
    struct tail *t = &e->part[x->partition].tail;
    *(x->older ? &x->older->newer : &e->tail_oldest) = x->newer;
    *(x->newer ? &x->newer->older : &e->tail_newest) = x->older;
    *slot_of(t, x->offset) = NULL;
    while (t->base < t->end && !*slot_of(t, t->base))
        t->base++;
    e->tail_bytes -= x->bytes;
}

/* Freeing a hint runs its owner's code: not under the lock, but in tail_free_dropped. */
static void entry_drop(struct embedded *e, struct tail_entry *x)
{
    entry_unlink(e, x);
    x->newer = e->tail_dropped;
    e->tail_dropped = x;
}

static bool ring_grow(struct tail *t)
{
    uint32_t cap = t->cap ? 2 * t->cap : TAIL_MIN_SLOTS;
    struct tail_entry **slot = calloc(cap, sizeof(struct tail_entry *));
    if (!slot)
        return false;
    for (int64_t o = t->base; o < t->end; o++)
        slot[(uint64_t)o & (cap - 1)] = *slot_of(t, o);
    free(t->slot);
    t->slot = slot;
    t->cap = cap;
    return true;
}

/*
 * Makes the ring reach offset, with nothing there. False: no memory. The oldest slot of a ring that is not empty always
 * holds an entry.
 */
static bool ring_extend(struct embedded *e, struct tail *t, int64_t offset)
{
    while (t->base < t->end && offset != t->end) /* offsets have jumped: begin anew */
        entry_drop(e, *slot_of(t, t->base));
    if (t->base < t->end && t->end - t->base == t->cap && t->cap == TAIL_MAX_SLOTS)
        entry_drop(e, *slot_of(t, t->base));
    if (t->base == t->end)
        t->base = t->end = offset;
    if (t->end - t->base == t->cap && !ring_grow(t))
        return false;
    *slot_of(t, offset) = NULL;
    t->end = offset + 1;
    return true;
}

static struct tail_entry *entry_new(const struct plog_record *r, size_t bytes)
{
    struct tail_entry *x = malloc(sizeof(*x) + r->tenant.n);
    if (!x)
        return NULL;
    *x = (struct tail_entry){
        .offset = r->offset,
        .timestamp_ms = r->timestamp_ms,
        .hint = r->hint,
        .bytes = bytes,
        .value_bytes = r->value.n,
        .partition = r->partition,
        .version = r->version,
        .form = r->form,
        .tenant_len = (uint32_t)r->tenant.n,
    };
    if (r->tenant.n)
        memcpy(x->tenant, r->tenant.p, r->tenant.n);
    return x;
}

void tail_append(struct embedded *e, const struct plog_record *r)
{
    struct tail *t = &e->part[r->partition].tail;
    size_t bytes = r->hint ? sizeof(struct tail_entry) + r->tenant.n + r->hint->size_bytes : 0;
    struct tail_entry *x = bytes && bytes <= e->cfg.embedded_max_hint_bytes ? entry_new(r, bytes) : NULL;
    if (!x && t->base == t->end)
        return;
    while (x && e->tail_bytes + bytes > e->cfg.embedded_max_hint_bytes)
        entry_drop(e, e->tail_oldest);
    if (!ring_extend(e, t, r->offset)) {
        free(x);
        return;
    }
    if (!x)
        return;
    plog_hint_ref(r->hint);
    x->older = e->tail_newest;
    *(e->tail_newest ? &e->tail_newest->newer : &e->tail_oldest) = x;
    e->tail_newest = x;
    e->tail_bytes += bytes;
    *slot_of(t, r->offset) = x;
}

struct tail_entry *tail_dropped(struct embedded *e)
{
    struct tail_entry *list = e->tail_dropped;
    e->tail_dropped = NULL;
    return list;
}

void tail_free_dropped(struct tail_entry *list)
{
    while (list) {
        struct tail_entry *next = list->newer;
        plog_hint_unref(list->hint);
        free(list);
        list = next;
    }
}

static struct tail_entry *entry_at(struct tail *t, int64_t offset)
{
    return offset >= t->base && offset < t->end ? *slot_of(t, offset) : NULL;
}

bool tail_take(struct embedded *e, int32_t partition, int64_t offset, size_t max_bytes, struct plog_batch *ret)
{
    struct tail *t = &e->part[partition].tail;
    size_t n = 0, bytes = 0;
    const struct tail_entry *x;
    while ((x = entry_at(t, offset + (int64_t)n)) && (n == 0 || bytes + x->value_bytes <= max_bytes)) {
        bytes += x->value_bytes;
        n++;
    }
    struct plog_record *records = n ? ARENA_ARRAY(&ret->arena, struct plog_record, n) : NULL;
    if (!records)
        return false;
    for (; ret->n < n; ret->n++) {
        struct tail_entry *y = entry_at(t, offset + (int64_t)ret->n);
        struct slice tenant = arena_dup(&ret->arena, slice_make(y->tenant, y->tenant_len));
        if (!tenant.p && y->tenant_len)
            break; /* out of memory: what is there goes out */
        records[ret->n] = (struct plog_record){
            .partition = partition,
            .offset = y->offset,
            .timestamp_ms = y->timestamp_ms,
            .tenant = tenant,
            .version = y->version,
            .form = y->form,
        };
        records[ret->n].hint = y->hint;
        entry_unlink(e, y);
        free(y);
    }
    ret->records = records;
    return ret->n > 0;
}

void tail_release(struct embedded *e)
{
    while (e->tail_oldest)
        entry_drop(e, e->tail_oldest);
    tail_free_dropped(tail_dropped(e));
    for (int32_t p = 0; p < e->base.n_partitions; p++)
        free(e->part[p].tail.slot);
}
