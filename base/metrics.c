#include "base/metrics.h"

#include <math.h>
#include <stdlib.h>

#include "base/metrics_int.h"

const double METRIC_BUCKETS_SECONDS[] = {.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 25, 50, 100, INFINITY};
const double METRIC_BUCKETS_BYTES[] = {1 << 10, 1 << 12, 1 << 14, 1 << 16,      1 << 18, 1 << 20,
                                       1 << 22, 1 << 24, 1 << 26, 1 << 28, 1 << 30, INFINITY};

#define METRIC_MAX_BUCKETS 64
#define FIRST_TABLE 8

struct scrape_hook {
    void (*fn)(void *arg);
    void *arg;
};

/* The registry: the one global of this program besides the logger. */
static pthread_once_t init_once = PTHREAD_ONCE_INIT;
static pthread_mutex_t scrape_lock; /* recursive: a hook may remove series */
static pthread_mutex_t registry_lock = PTHREAD_MUTEX_INITIALIZER;
static struct metric_family **families; /* in order of registration; guarded by registry_lock */
static size_t n_families;
static struct scrape_hook *hooks; /* guarded by scrape_lock */
static size_t n_hooks;

static void init(void)
{
    pthread_mutexattr_t attr;
    pthread_mutexattr_init(&attr);
    pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(&scrape_lock, &attr);
    pthread_mutexattr_destroy(&attr);
}

static void lock_scrape(void)
{
    pthread_once(&init_once, init);
    pthread_mutex_lock(&scrape_lock);
}

static void unlock_scrape(void)
{
    pthread_mutex_unlock(&scrape_lock);
}

/* Running out of memory for a few hundred bytes of bookkeeping has no better answer than to stop. */
static void *must(void *p)
{
    ASSERT(p != NULL);
    return p;
}

static void *alloc_lines(size_t n_bytes)
{
    n_bytes = (n_bytes + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
    return memset(must(aligned_alloc(CACHE_LINE, n_bytes)), 0, n_bytes);
}

/* --- registration ---------------------------------------------------------------------------------------------- */

static struct metric_family *family_new(const struct metric_def *def)
{
    struct metric_family *f = must(calloc(1, sizeof *f));
    f->def = def;
    while (f->n_labels < METRIC_MAX_LABELS && def->labels[f->n_labels])
        f->n_labels++;
    if (def->kind == METRIC_HISTOGRAM) {
        while (!isinf(def->buckets[f->n_buckets]))
            f->n_buckets++;
        f->n_buckets++;
        ASSERT(f->n_buckets <= METRIC_MAX_BUCKETS);
        size_t line_words = CACHE_LINE / sizeof(uint64_t);
        f->row_words = (1 + f->n_buckets + line_words - 1) / line_words * line_words;
    }
    f->n_table = FIRST_TABLE;
    f->table = must(calloc(f->n_table, sizeof(struct metric *)));
    f->sorted = true;
    pthread_mutex_init(&f->lock, NULL);
    return f;
}

void metrics_register(const struct metric_def *defs, size_t n, struct metric_family **ret_families)
{
    pthread_mutex_lock(&registry_lock);
    families = must(realloc(families, (n_families + n) * sizeof *families));
    for (size_t i = 0; i < n; i++) {
        for (size_t j = 0; j < n_families; j++)
            ASSERT(strcmp(families[j]->def->name, defs[i].name) != 0);
        ret_families[i] = families[n_families++] = family_new(&defs[i]);
    }
    pthread_mutex_unlock(&registry_lock);
    for (size_t i = 0; i < n; i++)
        if (ret_families[i]->n_labels == 0)
            (void)metric_get(ret_families[i], NULL);
}

void metrics_each_def(void (*fn)(const struct metric_def *def, void *arg), void *arg)
{
    pthread_mutex_lock(&registry_lock);
    for (size_t i = 0; i < n_families; i++)
        fn(families[i]->def, arg);
    pthread_mutex_unlock(&registry_lock);
}

static int family_by_name(const void *a, const void *b)
{
    return strcmp((*(struct metric_family *const *)a)->def->name, (*(struct metric_family *const *)b)->def->name);
}

struct metric_family **metrics_families_by_name(size_t *ret_n)
{
    pthread_mutex_lock(&registry_lock);
    size_t n = n_families;
    struct metric_family **sorted = must(malloc((n + 1) * sizeof *sorted));
    if (n)
        memcpy(sorted, families, n * sizeof *sorted);
    pthread_mutex_unlock(&registry_lock);
    qsort(sorted, n, sizeof *sorted, family_by_name);
    *ret_n = n;
    return sorted;
}

/* --- series ---------------------------------------------------------------------------------------------------- */

static uint64_t hash_values(const struct slice *values, size_t n)
{
    uint64_t h = 14695981039346656037u; /* FNV-1a; values end with a byte that is no UTF-8 */
    for (size_t i = 0; i < n; i++) {
        for (size_t k = 0; k < values[i].n; k++)
            h = (h ^ (uint8_t)values[i].p[k]) * 1099511628211u;
        h = (h ^ 0xff) * 1099511628211u;
    }
    return h ^ (h >> 32);
}

static struct metric *series_new(struct metric_family *f, const struct slice *values, uint64_t hash)
{
    size_t n_bytes = 0;
    for (size_t i = 0; i < f->n_labels; i++)
        n_bytes += values[i].n;
    struct metric *m = must(calloc(1, sizeof *m + n_bytes));
    m->family = f;
    m->hash = hash;
    char *p = (char *)(m + 1);
    for (size_t i = 0; i < f->n_labels; i++) {
        if (values[i].n)
            memcpy(p, values[i].p, values[i].n);
        m->values[i] = slice_make(p, values[i].n);
        p += values[i].n;
    }
    if (f->def->kind == METRIC_COUNTER)
        m->cells = alloc_lines(METRIC_SHARDS * sizeof *m->cells);
    if (f->def->kind == METRIC_HISTOGRAM)
        m->rows = alloc_lines(METRIC_SHARDS * f->row_words * sizeof *m->rows);
    return m;
}

static void series_free(struct metric *m)
{
    free(m->cells);
    free((void *)m->rows);
    free(m);
}

static bool values_eq(const struct metric *m, const struct slice *values)
{
    for (size_t i = 0; i < m->family->n_labels; i++)
        if (!slice_eq(m->values[i], values[i]))
            return false;
    return true;
}

static void table_grow(struct metric_family *f)
{
    size_t n = f->n_table * 2;
    struct metric **table = must(calloc(n, sizeof *table));
    for (size_t i = 0; i < f->n_series; i++) {
        struct metric *m = f->order[i];
        m->next = table[m->hash & (n - 1)];
        table[m->hash & (n - 1)] = m;
    }
    free(f->table);
    f->table = table;
    f->n_table = n;
}

struct metric *metric_get(struct metric_family *f, const struct slice *values)
{
    uint64_t hash = hash_values(values, f->n_labels);
    pthread_mutex_lock(&f->lock);
    struct metric *m = f->table[hash & (f->n_table - 1)];
    while (m && !(m->hash == hash && values_eq(m, values)))
        m = m->next;
    if (!m) {
        m = series_new(f, values, hash);
        if (f->n_series == f->cap_order) {
            f->cap_order = f->cap_order ? f->cap_order * 2 : 4;
            f->order = must(realloc(f->order, f->cap_order * sizeof *f->order));
        }
        f->order[f->n_series++] = m;
        f->sorted = f->n_series == 1;
        m->next = f->table[hash & (f->n_table - 1)];
        f->table[hash & (f->n_table - 1)] = m;
        if (f->n_series > f->n_table)
            table_grow(f);
    }
    pthread_mutex_unlock(&f->lock);
    return m;
}

struct metric *metric_single(struct metric_family *f)
{
    ASSERT(f->n_labels == 0);
    return metric_get(f, NULL);
}

/* Drops order[i]; needs the scrape lock and f->lock. Keeps the order of the others. */
static void series_remove(struct metric_family *f, size_t i)
{
    struct metric *m = f->order[i];
    struct metric **link = &f->table[m->hash & (f->n_table - 1)];
    while (*link != m)
        link = &(*link)->next;
    *link = m->next;
    memmove(&f->order[i], &f->order[i + 1], (f->n_series - i - 1) * sizeof *f->order);
    f->n_series--;
    series_free(m);
}

void metric_remove(struct metric_family *f, const struct slice *values)
{
    lock_scrape();
    pthread_mutex_lock(&f->lock);
    for (size_t i = 0; i < f->n_series; i++)
        if (values_eq(f->order[i], values)) {
            series_remove(f, i);
            break;
        }
    pthread_mutex_unlock(&f->lock);
    unlock_scrape();
}

static void family_remove_matching(struct metric_family *f, struct slice label, struct slice value)
{
    for (size_t l = 0; l < f->n_labels; l++) {
        if (!slice_eq(slice_of(f->def->labels[l]), label))
            continue;
        pthread_mutex_lock(&f->lock);
        for (size_t i = f->n_series; i-- > 0;)
            if (slice_eq(f->order[i]->values[l], value))
                series_remove(f, i);
        pthread_mutex_unlock(&f->lock);
        return;
    }
}

void metrics_remove_matching(struct slice label, struct slice value)
{
    lock_scrape();
    size_t n;
    struct metric_family **all = metrics_families_by_name(&n);
    for (size_t i = 0; i < n; i++)
        family_remove_matching(all[i], label, value);
    free(all);
    unlock_scrape();
}

/* --- values ---------------------------------------------------------------------------------------------------- */

/* Threads are dealt to the slots in turn. */
static unsigned thread_slot(void)
{
    static atomic_uint next;
    static _Thread_local unsigned slot = UINT32_MAX;
    if (UNLIKELY(slot == UINT32_MAX))
        slot = atomic_fetch_add_explicit(&next, 1, memory_order_relaxed) % METRIC_SHARDS;
    return slot;
}

static void add_bits(_Atomic uint64_t *bits, double v)
{
    uint64_t old = atomic_load_explicit(bits, memory_order_relaxed);
    while (!atomic_compare_exchange_weak_explicit(bits, &old, metric_to_bits(metric_from_bits(old) + v),
                                                  memory_order_relaxed, memory_order_relaxed))
        ;
}

void metric_add(struct metric *m, double v)
{
    if (m->family->def->kind == METRIC_GAUGE) {
        add_bits(&m->gauge, v);
        return;
    }
    ASSERT(m->cells != NULL);
    SLOW_ASSERT(v >= 0);
    struct metric_cell *cell = &m->cells[thread_slot()];
    if (LIKELY(v >= 0 && v < 1e15 && v == (double)(uint64_t)v))
        atomic_fetch_add_explicit(&cell->whole, (uint64_t)v, memory_order_relaxed);
    else
        add_bits(&cell->fraction, v);
}

void metric_inc(struct metric *m)
{
    metric_add(m, 1);
}

void metric_set(struct metric *m, double v)
{
    ASSERT(m->family->def->kind == METRIC_GAUGE);
    atomic_store_explicit(&m->gauge, metric_to_bits(v), memory_order_relaxed);
}

void metric_observe(struct metric *m, double v)
{
    ASSERT(m->rows != NULL);
    const double *bounds = m->family->def->buckets;
    size_t b = 0;
    while (!(v <= bounds[b]) && b + 1 < m->family->n_buckets)
        b++;
    _Atomic uint64_t *row = m->rows + thread_slot() * m->family->row_words;
    atomic_fetch_add_explicit(&row[1 + b], 1, memory_order_relaxed);
    add_bits(&row[0], v);
}

double metric_counter_sum(const struct metric *m)
{
    double sum = 0;
    for (size_t i = 0; i < METRIC_SHARDS; i++) {
        sum += (double)atomic_load_explicit(&m->cells[i].whole, memory_order_relaxed);
        sum += metric_from_bits(atomic_load_explicit(&m->cells[i].fraction, memory_order_relaxed));
    }
    return sum;
}

double metric_histogram_sum(const struct metric *m, uint64_t *ret_buckets)
{
    double sum = 0;
    memset(ret_buckets, 0, m->family->n_buckets * sizeof *ret_buckets);
    for (size_t i = 0; i < METRIC_SHARDS; i++) {
        _Atomic uint64_t *row = m->rows + i * m->family->row_words;
        sum += metric_from_bits(atomic_load_explicit(&row[0], memory_order_relaxed));
        for (size_t b = 0; b < m->family->n_buckets; b++)
            ret_buckets[b] += atomic_load_explicit(&row[1 + b], memory_order_relaxed);
    }
    return sum;
}

static double stored_value(const struct metric *m)
{
    if (m->family->def->kind == METRIC_COUNTER)
        return metric_counter_sum(m);
    if (m->family->def->kind == METRIC_GAUGE)
        return metric_from_bits(atomic_load_explicit(&m->gauge, memory_order_relaxed));
    uint64_t buckets[METRIC_MAX_BUCKETS];
    uint64_t count = 0;
    (void)metric_histogram_sum(m, buckets);
    for (size_t b = 0; b < m->family->n_buckets; b++)
        count += buckets[b];
    return (double)count;
}

double metric_value(struct metric *m)
{
    if (!m->fn)
        return stored_value(m);
    lock_scrape();
    double (*fn)(void *) = m->fn;
    double v = fn ? fn(m->arg) : stored_value(m);
    unlock_scrape();
    return v;
}

/* --- callbacks ------------------------------------------------------------------------------------------------- */

void metric_set_callback(struct metric *m, double (*fn)(void *arg), void *arg)
{
    ASSERT(m->family->def->kind != METRIC_HISTOGRAM);
    lock_scrape();
    m->fn = fn;
    m->arg = arg;
    unlock_scrape();
}

void metrics_on_scrape(void (*fn)(void *arg), void *arg)
{
    lock_scrape();
    hooks = must(realloc(hooks, (n_hooks + 1) * sizeof *hooks));
    hooks[n_hooks++] = (struct scrape_hook){fn, arg};
    unlock_scrape();
}

void metrics_remove_on_scrape(void (*fn)(void *arg), void *arg)
{
    lock_scrape();
    for (size_t i = 0; i < n_hooks; i++)
        if (hooks[i].fn == fn && hooks[i].arg == arg) {
            hooks[i] = hooks[--n_hooks];
            break;
        }
    unlock_scrape();
}

/* Hooks first, then every callback's answer goes into its series: no family's lock is held while foreign code runs. */
static void run_callbacks(void)
{
    for (size_t i = 0; i < n_hooks; i++)
        hooks[i].fn(hooks[i].arg);
    size_t n;
    struct metric_family **all = metrics_families_by_name(&n);
    for (size_t i = 0; i < n; i++) {
        struct metric_family *f = all[i];
        for (size_t s = 0;; s++) {
            pthread_mutex_lock(&f->lock);
            struct metric *m = s < f->n_series ? f->order[s] : NULL;
            pthread_mutex_unlock(&f->lock);
            if (!m)
                break;
            /* m stays: only a holder of the scrape lock frees series. */
            double (*fn)(void *) = m->fn;
            if (fn)
                atomic_store_explicit(&m->gauge, metric_to_bits(fn(m->arg)), memory_order_relaxed);
        }
    }
    free(all);
}

void metrics_scrape_begin(void)
{
    lock_scrape();
    run_callbacks();
}

void metrics_scrape_end(void)
{
    unlock_scrape();
}
