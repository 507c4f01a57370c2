#include "ingest/exemplars_int.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "ingest/ingest_metrics_int.h"
#include "ingest/region_int.h"

#define NONE UINT32_MAX
#define MAX_LABELS_BYTES                                                                                               \
    4096u /* the distributor takes 128 characters at most; this bounds what other producers may put in */

struct exemplar_entry {
    struct series_hash series;
    int64_t t;
    double v;
    char *labels; /* owned; NULL: the place is empty */
    uint32_t n_labels;
    uint32_t older;  /* place of the series' exemplar before this one; stale once that place was taken by a newer one */
    uint64_t serial; /* grows with each exemplar stored: tells whether `older` is still what it was */
    uint64_t older_serial;
};

struct exemplar_index {
    struct series_hash series;
    uint32_t newest; /* + 1; 0 = free slot */
};

static uint64_t next_serial(const struct exemplars *x)
{
    uint32_t last = (x->next + x->cap - 1) % x->cap;
    return x->ring[last].labels ? x->ring[last].serial + 1 : 1;
}

void exemplars_init(struct exemplars *x)
{
    *x = (struct exemplars){0};
    pthread_mutex_init(&x->lock, NULL);
}

static void count_stored(double delta)
{
    if (delta != 0)
        metric_add(metric_single(ingest_metrics[INGESTER_EXEMPLARS_STORED]), delta);
}

static void drop_all(struct exemplars *x)
{
    for (uint32_t i = 0; i < x->cap; i++)
        free(x->ring[i].labels);
    free(x->ring);
    free(x->index);
    count_stored(-(double)x->n);
    x->ring = NULL;
    x->index = NULL;
    x->cap = x->next = x->n = x->n_slots = x->n_series = 0;
}

void exemplars_release(struct exemplars *x)
{
    drop_all(x);
    pthread_mutex_destroy(&x->lock);
}

/* --- index --- */

static struct exemplar_index *index_slot(const struct exemplars *x, struct series_hash h)
{
    uint32_t i = (uint32_t)h.lo & (x->n_slots - 1);
    while (x->index[i].newest && !series_hash_eq(x->index[i].series, h))
        i = (i + 1) & (x->n_slots - 1);
    return &x->index[i];
}

static void index_resize(struct exemplars *x, uint32_t n_slots)
{
    struct exemplar_index *old = x->index;
    uint32_t n = x->n_slots;
    x->index = xcalloc(n_slots, sizeof(*x->index));
    x->n_slots = n_slots;
    for (uint32_t i = 0; i < n; i++)
        if (old[i].newest)
            *index_slot(x, old[i].series) = old[i];
    free(old);
}

/* Takes a series out; those behind it in the run move up, so that probing still finds them. */
static void index_remove(struct exemplars *x, struct exemplar_index *slot)
{
    uint32_t mask = x->n_slots - 1;
    uint32_t hole = (uint32_t)(slot - x->index);
    for (uint32_t i = (hole + 1) & mask; x->index[i].newest; i = (i + 1) & mask) {
        uint32_t home = (uint32_t)x->index[i].series.lo & mask;
        if (((i - home) & mask) >= ((i - hole) & mask)) {
            x->index[hole] = x->index[i];
            hole = i;
        }
    }
    x->index[hole].newest = 0;
    x->n_series--;
}

/* --- ring --- */

static void evict(struct exemplars *x, struct exemplar_entry *e)
{
    if (!e->labels)
        return;
    struct exemplar_index *slot = index_slot(x, e->series);
    if (slot->newest == (uint32_t)(e - x->ring) + 1)
        index_remove(x, slot);
    free(e->labels);
    e->labels = NULL;
    x->n--;
    count_stored(-1);
}

static enum exemplar_result add_locked(struct exemplars *x, struct series_hash series, struct slice labels, int64_t t,
                                       double v)
{
    if (x->cap == 0 || labels.n > MAX_LABELS_BYTES)
        return EXEMPLAR_OFF;
    struct exemplar_index *slot = index_slot(x, series);
    if (slot->newest) {
        const struct exemplar_entry *last = &x->ring[slot->newest - 1];
        bool same_value = memcmp(&last->v, &v, sizeof(v)) == 0;
        if (last->t == t && same_value && slice_eq(slice_make(last->labels, last->n_labels), labels))
            return EXEMPLAR_SAME;
        if (t <= last->t)
            return EXEMPLAR_OUT_OF_ORDER;
    }
    struct exemplar_entry *e = &x->ring[x->next];
    uint64_t serial = next_serial(x);
    evict(x, e);
    slot = index_slot(x, series);
    if (!slot->newest && (x->n_series + 1) * 4 > x->n_slots * 3) {
        index_resize(x, x->n_slots * 2);
        slot = index_slot(x, series);
    }
    *e = (struct exemplar_entry){.series = series,
                                 .t = t,
                                 .v = v,
                                 .labels = xmalloc(labels.n),
                                 .n_labels = (uint32_t)labels.n,
                                 .older = NONE,
                                 .serial = serial};
    if (labels.n)
        memcpy(e->labels, labels.p, labels.n);
    if (slot->newest) {
        e->older = slot->newest - 1;
        e->older_serial = x->ring[e->older].serial;
    } else {
        slot->series = series;
        x->n_series++;
    }
    slot->newest = x->next + 1;
    x->next = (x->next + 1) % x->cap;
    x->n++;
    count_stored(1);
    return EXEMPLAR_STORED;
}

enum exemplar_result exemplars_add(struct exemplars *x, struct series_hash series, struct slice labels, int64_t t,
                                   double v)
{
    pthread_mutex_lock(&x->lock);
    enum exemplar_result r = add_locked(x, series, labels, t, v);
    pthread_mutex_unlock(&x->lock);
    return r;
}

void exemplars_resize(struct exemplars *x, uint32_t cap)
{
    pthread_mutex_lock(&x->lock);
    struct exemplars old = *x;
    x->ring = NULL;
    x->index = NULL;
    x->n = x->next = x->n_series = x->n_slots = 0;
    x->cap = cap;
    count_stored(-(double)old.n);
    if (cap) {
        x->ring = xcalloc(cap, sizeof(*x->ring));
        index_resize(x, 64);
    }
    for (uint32_t i = 0; i < old.cap; i++) {
        struct exemplar_entry *e = &old.ring[(old.next + i) % old.cap];
        if (e->labels)
            add_locked(x, e->series, slice_make(e->labels, e->n_labels), e->t, e->v);
        free(e->labels);
    }
    free(old.ring);
    free(old.index);
    pthread_mutex_unlock(&x->lock);
}

/* --- reading --- */

/* The series' exemplars of the range, newest first, into views; returns how many. */
static size_t collect(const struct exemplars *x, uint32_t newest, int64_t min_t, int64_t max_t,
                      struct exemplar_view *views)
{
    size_t n = 0;
    const struct exemplar_entry *e = &x->ring[newest];
    for (;;) {
        if (e->t >= min_t && e->t <= max_t)
            views[n++] = (struct exemplar_view){slice_make(e->labels, e->n_labels), e->t, e->v};
        if (e->older == NONE || !x->ring[e->older].labels || x->ring[e->older].serial != e->older_serial)
            return n;
        e = &x->ring[e->older];
    }
}

bool exemplars_each(struct exemplars *x, int64_t min_t, int64_t max_t,
                    bool (*fn)(void *arg, struct series_hash series, const struct exemplar_view *views, size_t n),
                    void *arg)
{
    bool ok = true;
    pthread_mutex_lock(&x->lock);
    struct exemplar_view *views = xmalloc(x->n * sizeof(*views));
    for (uint32_t i = 0; ok && i < x->n_slots; i++) {
        if (!x->index[i].newest)
            continue;
        size_t n = collect(x, x->index[i].newest - 1, min_t, max_t, views);
        for (size_t a = 0, b = n; a + 1 < b; a++) {
            struct exemplar_view swap = views[a];
            views[a] = views[--b];
            views[b] = swap;
        }
        ok = n == 0 || fn(arg, x->index[i].series, views, n);
    }
    free(views);
    pthread_mutex_unlock(&x->lock);
    return ok;
}

/* --- checkpoint: u32 cap, u32 n, then n times hash lo, hi, t, v, u32 length, label bytes
 * ------------------------------ */

void exemplars_save(struct exemplars *x, struct buf *out)
{
    pthread_mutex_lock(&x->lock);
    buf_put(out, &x->cap, sizeof(x->cap));
    buf_put(out, &x->n, sizeof(x->n));
    for (uint32_t i = 0; i < x->cap; i++) {
        const struct exemplar_entry *e = &x->ring[(x->next + i) % x->cap];
        if (!e->labels)
            continue;
        buf_put(out, &e->series, sizeof(e->series));
        buf_put(out, &e->t, sizeof(e->t));
        buf_put(out, &e->v, sizeof(e->v));
        buf_put(out, &e->n_labels, sizeof(e->n_labels));
        buf_put(out, e->labels, e->n_labels);
    }
    pthread_mutex_unlock(&x->lock);
}

static bool take(struct slice *s, void *ret, size_t n)
{
    if (s->n < n)
        return false;
    memcpy(ret, s->p, n);
    *s = slice_make(s->p + n, s->n - n);
    return true;
}

bool exemplars_load(struct exemplars *x, struct slice bytes)
{
    uint32_t cap;
    uint32_t n;
    if (!take(&bytes, &cap, sizeof(cap)) || !take(&bytes, &n, sizeof(n)) || n > cap || n > bytes.n / 36)
        return false;
    /* The limit of this process decides at the first record; until then what is there has room. */
    exemplars_resize(x, n);
    for (uint32_t i = 0; i < n; i++) {
        struct series_hash series;
        int64_t t;
        double v;
        uint32_t len;
        if (!take(&bytes, &series, sizeof(series)) || !take(&bytes, &t, sizeof(t)) || !take(&bytes, &v, sizeof(v)) ||
            !take(&bytes, &len, sizeof(len)) || len > bytes.n)
            return false;
        exemplars_add(x, series, slice_make(bytes.p, len), t, v);
        bytes = slice_make(bytes.p + len, bytes.n - len);
    }
    return bytes.n == 0;
}
