#include "ingest/metadata_int.h"

#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/assert.h"
#include "ingest/ingest_metrics_int.h"
#include "ingest/region_int.h"

#define TEXT_MAX ((size_t)64 << 10) /* of a family, help or unit; the distributor's limits are far lower */

struct metadata_entry {
    uint32_t type;
    int64_t seen_ms;
    char *help; /* owned, both */
    uint32_t n_help;
    char *unit;
    uint32_t n_unit;
};

struct metadata_family {
    struct metadata_family *next;
    struct metadata_entry *entries; /* the one seen last is first */
    uint32_t n;
    uint32_t n_name;
    char name[];
};

void metadata_init(struct metadata_store *m)
{
    *m = (struct metadata_store){.n_buckets = 64};
    m->families = xcalloc(m->n_buckets, sizeof(*m->families));
    pthread_mutex_init(&m->lock, NULL);
}

static void count_entries(double delta)
{
    metric_add(metric_single(ingest_metrics[INGESTER_MEMORY_METADATA]), delta);
}

static void entry_release(struct metadata_entry *e)
{
    free(e->help);
    free(e->unit);
    count_entries(-1);
}

static void family_free(struct metadata_family *f)
{
    for (uint32_t i = 0; i < f->n; i++)
        entry_release(&f->entries[i]);
    free(f->entries);
    free(f);
}

void metadata_release(struct metadata_store *m)
{
    for (uint32_t b = 0; b < m->n_buckets; b++)
        for (struct metadata_family *f = m->families[b], *next; f; f = next) {
            next = f->next;
            family_free(f);
        }
    free(m->families);
    pthread_mutex_destroy(&m->lock);
}

static struct metadata_family **family_place(const struct metadata_store *m, struct slice name)
{
    struct metadata_family **at = &m->families[XXH3_64bits(name.p, name.n) & (m->n_buckets - 1)];
    while (*at && !slice_eq(slice_make((*at)->name, (*at)->n_name), name))
        at = &(*at)->next;
    return at;
}

static void buckets_double(struct metadata_store *m)
{
    struct metadata_family **old = m->families;
    uint32_t n = m->n_buckets;
    m->n_buckets *= 2;
    m->families = xcalloc(m->n_buckets, sizeof(*m->families));
    for (uint32_t b = 0; b < n; b++)
        for (struct metadata_family *f = old[b], *next; f; f = next) {
            next = f->next;
            struct metadata_family **at = family_place(m, slice_make(f->name, f->n_name));
            f->next = NULL;
            *at = f;
        }
    free(old);
}

static char *copy(struct slice s)
{
    char *p = xmalloc(s.n);
    if (s.n)
        memcpy(p, s.p, s.n);
    return p;
}

/* Moves entry i to the front. */
static void to_front(struct metadata_family *f, uint32_t i)
{
    struct metadata_entry e = f->entries[i];
    memmove(f->entries + 1, f->entries, i * sizeof(e));
    f->entries[0] = e;
}

static struct metadata_family *family_make(struct metadata_store *m, struct slice name)
{
    if (m->n_families >= m->n_buckets)
        buckets_double(m);
    struct metadata_family *f = xcalloc(1, sizeof(*f) + name.n);
    memcpy(f->name, name.p, name.n);
    f->n_name = (uint32_t)name.n;
    *family_place(m, name) = f;
    m->n_families++;
    return f;
}

static enum metadata_result add_locked(struct metadata_store *m, const struct limits *limits,
                                       const struct write_metadata *md, int64_t now_ms)
{
    struct metadata_family *f = *family_place(m, md->family);
    for (uint32_t i = 0; f && i < f->n; i++) {
        struct metadata_entry *e = &f->entries[i];
        if (e->type == md->type && slice_eq(slice_make(e->help, e->n_help), md->help) &&
            slice_eq(slice_make(e->unit, e->n_unit), md->unit)) {
            e->seen_ms = MAX(e->seen_ms, now_ms);
            to_front(f, i);
            return METADATA_SEEN;
        }
    }
    int64_t per_user = limits ? limits->max_global_metadata_per_user : 0;
    int64_t per_metric = limits ? limits->max_global_metadata_per_metric : 0;
    if (!f && per_user > 0 && m->n_families >= (uint64_t)per_user)
        return METADATA_USER_LIMIT;
    if (f && ((per_metric > 0 && f->n >= (uint64_t)per_metric) || f->n >= METADATA_MAX_PER_FAMILY))
        return METADATA_METRIC_LIMIT;
    if (md->family.n > TEXT_MAX || md->help.n > TEXT_MAX || md->unit.n > TEXT_MAX)
        return METADATA_METRIC_LIMIT;
    if (!f)
        f = family_make(m, md->family);
    f->entries = xrealloc(f->entries, (f->n + 1) * sizeof(*f->entries));
    f->entries[f->n] = (struct metadata_entry){.type = md->type,
                                               .seen_ms = now_ms,
                                               .help = copy(md->help),
                                               .n_help = (uint32_t)md->help.n,
                                               .unit = copy(md->unit),
                                               .n_unit = (uint32_t)md->unit.n};
    to_front(f, f->n++);
    count_entries(1);
    return METADATA_NEW;
}

enum metadata_result metadata_add(struct metadata_store *m, const struct limits *limits,
                                  const struct write_metadata *md, int64_t now_ms)
{
    pthread_mutex_lock(&m->lock);
    enum metadata_result r = add_locked(m, limits, md, now_ms);
    pthread_mutex_unlock(&m->lock);
    return r;
}

static uint64_t expire_family(struct metadata_family *f, int64_t before_ms)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < f->n; i++) {
        if (f->entries[i].seen_ms < before_ms)
            entry_release(&f->entries[i]);
        else
            f->entries[kept++] = f->entries[i];
    }
    uint64_t gone = f->n - kept;
    f->n = kept;
    return gone;
}

uint64_t metadata_expire(struct metadata_store *m, int64_t before_ms)
{
    uint64_t gone = 0;
    pthread_mutex_lock(&m->lock);
    for (uint32_t b = 0; b < m->n_buckets; b++)
        for (struct metadata_family **at = &m->families[b]; *at;) {
            struct metadata_family *f = *at;
            gone += expire_family(f, before_ms);
            if (f->n) {
                at = &f->next;
                continue;
            }
            *at = f->next;
            family_free(f);
            m->n_families--;
        }
    pthread_mutex_unlock(&m->lock);
    return gone;
}

uint64_t metadata_count(struct metadata_store *m)
{
    uint64_t n = 0;
    pthread_mutex_lock(&m->lock);
    for (uint32_t b = 0; b < m->n_buckets; b++)
        for (const struct metadata_family *f = m->families[b]; f; f = f->next)
            n += f->n;
    pthread_mutex_unlock(&m->lock);
    return n;
}

/* --- reading --- */

static const char *type_name(uint32_t type)
{
    static const char *const names[] = {"unknown",        "counter", "gauge", "histogram",
                                        "gaugehistogram", "summary", "info",  "stateset"};
    return names[type < ARRAY_LEN(names) ? type : 0];
}

static int by_family(const void *a, const void *b)
{
    const struct metadata_family *x = *(struct metadata_family *const *)a;
    const struct metadata_family *y = *(struct metadata_family *const *)b;
    return slice_cmp(slice_make(x->name, x->n_name), slice_make(y->name, y->n_name));
}

static bool list_locked(const struct metadata_store *m, struct arena *arena, const struct metric_metadata **ret,
                        size_t *ret_n)
{
    const struct metadata_family **families = ARENA_ARRAY(arena, const struct metadata_family *, m->n_families + 1);
    size_t n = 0;
    size_t n_entries = 0;
    if (!families)
        return false;
    for (uint32_t b = 0; b < m->n_buckets; b++)
        for (const struct metadata_family *f = m->families[b]; f; f = f->next) {
            families[n++] = f;
            n_entries += f->n;
        }
    qsort(families, n, sizeof(*families), by_family);
    struct metric_metadata *list = ARENA_ARRAY(arena, struct metric_metadata, n_entries + 1);
    if (!list)
        return false;
    size_t k = 0;
    for (size_t i = 0; i < n; i++) {
        struct slice name = arena_dup(arena, slice_make(families[i]->name, families[i]->n_name));
        for (uint32_t j = 0; j < families[i]->n; j++) {
            const struct metadata_entry *e = &families[i]->entries[j];
            list[k++] =
                (struct metric_metadata){name, type_name(e->type), arena_dup(arena, slice_make(e->help, e->n_help)),
                                         arena_dup(arena, slice_make(e->unit, e->n_unit))};
        }
    }
    *ret = list;
    *ret_n = k;
    return !arena->overflow;
}

bool metadata_list(struct metadata_store *m, struct arena *arena, const struct metric_metadata **ret, size_t *ret_n)
{
    pthread_mutex_lock(&m->lock);
    bool ok = list_locked(m, arena, ret, ret_n);
    pthread_mutex_unlock(&m->lock);
    return ok;
}

/* --- checkpoint: entries, each u32 type, i64 seen_ms, u32 lengths of family, help, unit, then their bytes
 * -------------- */

void metadata_save(struct metadata_store *m, struct buf *out)
{
    pthread_mutex_lock(&m->lock);
    for (uint32_t b = 0; b < m->n_buckets; b++)
        for (const struct metadata_family *f = m->families[b]; f; f = f->next)
            /* The oldest first: loading puts each in front of those before it. */
            for (uint32_t i = f->n; i-- > 0;) {
                const struct metadata_entry *e = &f->entries[i];
                buf_put(out, &e->type, sizeof(e->type));
                buf_put(out, &e->seen_ms, sizeof(e->seen_ms));
                buf_put(out, &f->n_name, sizeof(f->n_name));
                buf_put(out, &e->n_help, sizeof(e->n_help));
                buf_put(out, &e->n_unit, sizeof(e->n_unit));
                buf_put(out, f->name, f->n_name);
                buf_put(out, e->help, e->n_help);
                buf_put(out, e->unit, e->n_unit);
            }
    pthread_mutex_unlock(&m->lock);
}

bool metadata_load(struct metadata_store *m, struct slice bytes)
{
    const char *p = bytes.p;
    const char *end = bytes.p + bytes.n;
    while (p < end) {
        struct write_metadata md = {0};
        int64_t seen_ms;
        uint32_t len[3];
        if ((size_t)(end - p) < 24)
            return false;
        memcpy(&md.type, p, 4);
        memcpy(&seen_ms, p + 4, 8);
        memcpy(len, p + 12, 12);
        p += 24;
        if ((uint64_t)len[0] + len[1] + len[2] > (uint64_t)(end - p))
            return false;
        md.family = slice_make(p, len[0]);
        md.help = slice_make(p + len[0], len[1]);
        md.unit = slice_make(p + len[0] + len[1], len[2]);
        p += (size_t)len[0] + len[1] + len[2];
        metadata_add(m, NULL, &md, seen_ms);
    }
    return true;
}
