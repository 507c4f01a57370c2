/* The series and their values; see load_series.h. */
#include "load_series.h"

#include <math.h>
#include <snappy-c.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HISTOGRAMS 2
#define BUCKETS 12
#define HISTOGRAM_SERIES (BUCKETS + 2)
#define FIRST_COUNTER (HISTOGRAMS * HISTOGRAM_SERIES)
#define REQUEST_COUNTERS 20
#define FIRST_GAUGE (FIRST_COUNTER + 43)
#define PODS_PER_SERVICE 10
#define LABEL_TEXT_MAX 64
#define LABELS_BYTES_MAX 600

static const char *const bounds[BUCKETS] = {"0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1", "2.5", "5", "10", "+Inf"};
static const double middle[BUCKETS] = {.003, .007, .017, .037, .07, .17, .37, .7, 1.7, 3.7, 7, 15};
static const double share[BUCKETS] = {.05, .1, .15, .2, .2, .12, .08, .05, .03, .01, .006, .004};

static void *must(void *p)
{
    if (!p) {
        fputs("load: out of memory\n", stderr);
        exit(2);
    }
    return p;
}

/* A hash without state, so that no run depends on the order of another. */
static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 32)) * UINT64_C(0xD6E8FEB86659FD93);
    x = (x ^ (x >> 32)) * UINT64_C(0xD6E8FEB86659FD93);
    return x ^ (x >> 32);
}

static double unit(uint64_t h)
{
    return (double)(h >> 11) * 0x1p-53;
}

/* --- labels --------------------------------------------------------------------------------------------------------------- */

struct label {
    const char *name;
    char value[LABEL_TEXT_MAX];
};

struct labels {
    struct label l[LABELS_MAX];
    int n;
};

static __attribute__((format(printf, 3, 4))) void add(struct labels *ls, const char *name, const char *fmt, ...)
{
    va_list ap;
    struct label *l = &ls->l[ls->n++];
    l->name = name;
    va_start(ap, fmt);
    vsnprintf(l->value, sizeof(l->value), fmt, ap);
    va_end(ap);
}

/* Name and labels that tell the series of a pod apart. */
static void add_own(struct labels *ls, long k)
{
    static const char *const codes[] = {"200", "201", "400", "404", "500"};
    static const char *const methods[] = {"DELETE", "GET", "POST", "PUT"};
    static const char *const stems[] = {"cache_requests", "container_network_rx", "db_connections", "go_heap_inuse_bytes",
                                        "grpc_handled", "process_resident_bytes", "queue_depth", "wal_pages"};
    if (k < FIRST_COUNTER) {
        long part = k % HISTOGRAM_SERIES;
        add(ls, "__name__", "http_request_duration_seconds_%s", part < BUCKETS ? "bucket" : part == BUCKETS ? "sum" : "count");
        add(ls, "handler", "/api/v1/resource-%03ld", k / HISTOGRAM_SERIES);
        if (part < BUCKETS)
            add(ls, "le", "%s", bounds[part]);
    } else if (k < FIRST_COUNTER + REQUEST_COUNTERS) {
        long c = k - FIRST_COUNTER;
        add(ls, "__name__", "http_requests_total");
        add(ls, "code", "%s", codes[c % 5]);
        add(ls, "method", "%s", methods[c / 5]);
    } else if (k < FIRST_GAUGE) {
        add(ls, "__name__", "%s_%03ld_total", stems[k % 8], k);
    } else {
        add(ls, "__name__", "%s_%03ld", stems[k % 8], k);
    }
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct label *)a)->name, ((const struct label *)b)->name);
}

static void make_labels(struct labels *ls, long series)
{
    static const char *const more[] = {"container", "node", "endpoint", "region", "tier"};
    long pod = series / POD_SERIES, service = pod / PODS_PER_SERVICE;
    uint64_t h = mix((uint64_t)pod + 1);
    ls->n = 0;
    add_own(ls, series % POD_SERIES);
    int plain = ls->n;
    if (strcmp(ls->l[plain - 1].name, "le") == 0)
        plain--; /* buckets have a label more than the others */
    add(ls, "cluster", "prod-eu-west-%ld", pod % 4);
    add(ls, "instance", "10.%ld.%ld.%ld:8080", pod >> 16 & 255, pod >> 8 & 255, pod & 255);
    add(ls, "job", "service-%04ld", service);
    add(ls, "namespace", "team-%02ld", service % 40);
    add(ls, "pod", "service-%04ld-%010llx-%05llx", service, (unsigned long long)(h & 0xFFFFFFFFFF), (unsigned long long)(h >> 44));
    for (int i = 0; plain + 5 + i < 11; i++)
        add(ls, more[i], "%s-%02ld", more[i], (service * 7 + i) % 97);
    qsort(ls->l, (size_t)ls->n, sizeof(ls->l[0]), by_name);
}

/* --- protobuf ------------------------------------------------------------------------------------------------------------- */

static char *put_varint(char *p, uint64_t v)
{
    for (; v >= 0x80; v >>= 7)
        *p++ = (char)(v | 0x80);
    *p++ = (char)v;
    return p;
}

static char *put_text(char *p, char tag, const char *text)
{
    size_t n = strlen(text);
    *p++ = tag;
    p = put_varint(p, n);
    memcpy(p, text, n);
    return p + n;
}

/* All texts are shorter than 64 bytes, so a label's length takes at most two bytes. */
static char *put_labels(char *p, const struct labels *ls)
{
    for (int i = 0; i < ls->n; i++) {
        char entry[2 * LABEL_TEXT_MAX + 8];
        char *end = put_text(put_text(entry, 0x0A, ls->l[i].name), 0x12, ls->l[i].value);
        *p++ = 0x0A;
        p = put_varint(p, (uint64_t)(end - entry));
        memcpy(p, entry, (size_t)(end - entry));
        p += end - entry;
    }
    return p;
}

void block_init(struct block *b, long first, long n)
{
    size_t used = 0;
    *b = (struct block){.first = first, .n = n};
    b->labels = must(malloc((size_t)n * LABELS_BYTES_MAX));
    b->labels_end = must(calloc((size_t)n, sizeof(*b->labels_end)));
    b->value = must(calloc((size_t)n, sizeof(*b->value)));
    for (long i = 0; i < n; i++) {
        struct labels ls;
        make_labels(&ls, first + i);
        used = (size_t)(put_labels(b->labels + used, &ls) - b->labels);
        b->labels_end[i] = (uint32_t)used;
    }
    b->labels = must(realloc(b->labels, used));
}

void block_release(struct block *b)
{
    free(b->labels);
    free(b->labels_end);
    free(b->value);
}

/* --- values --------------------------------------------------------------------------------------------------------------- */

/* Running sums over the buckets of the histogram that is being walked. */
struct histogram_sums {
    double count;
    double sum;
};

static double next_bucket(double *value, long part, double r, struct histogram_sums *h)
{
    if (part == 0)
        *h = (struct histogram_sums){0, 0};
    if (part == BUCKETS)
        return h->sum;
    if (part == BUCKETS + 1)
        return h->count;
    *value += floor(60 * share[part] * 2 * r + r);
    h->count += *value;
    h->sum += *value * middle[part];
    return h->count;
}

static double next_gauge(double *value, long k, double r)
{
    if (k & 1) {
        *value += floor((r - 0.5) * 65536);
        return 268435456.0 + *value * 4096;
    }
    *value += (r - 0.5) * 0.02;
    return 0.5 + *value;
}

static double next_value(struct block *b, long i, long scrape, struct histogram_sums *h)
{
    long series = b->first + i, k = series % POD_SERIES;
    uint64_t trait = mix((uint64_t)series + 77);
    double r = unit(mix((uint64_t)series * UINT64_C(0x100000001B3) + (uint64_t)scrape + 1));
    if (k < FIRST_COUNTER)
        return next_bucket(&b->value[i], k % HISTOGRAM_SERIES, r, h);
    if (trait % 100 < 30)
        return (double)(trait >> 8 & 0xFFFF);
    if (k >= FIRST_GAUGE)
        return next_gauge(&b->value[i], k, r);
    double rate = 1 + (double)(trait % 200);
    if (k < FIRST_COUNTER + REQUEST_COUNTERS && (k - FIRST_COUNTER) % 5 >= 2)
        rate = r < 0.05 ? 400 : 0; /* errors are rare: most of their scrapes change nothing */
    b->value[i] += floor(rate * r * 2);
    return b->value[i];
}

struct body block_body(struct block *b, long scrape, int64_t t_ms)
{
    size_t cap = b->labels_end[b->n - 1] + (size_t)b->n * 40;
    char *raw = must(malloc(cap)), *p = raw;
    struct histogram_sums sums = {0, 0};
    uint32_t from = 0;
    for (long i = 0; i < b->n; i++) {
        size_t labels = b->labels_end[i] - from;
        double v = next_value(b, i, scrape, &sums);
        char sample[24], *s = sample;
        *s++ = 0x09;
        memcpy(s, &v, 8);
        s += 8;
        *s++ = 0x10;
        s = put_varint(s, (uint64_t)t_ms);
        size_t n = (size_t)(s - sample);
        *p++ = 0x0A;
        p = put_varint(p, labels + 2 + n);
        memcpy(p, b->labels + from, labels);
        p += labels;
        *p++ = 0x12;
        p = put_varint(p, n);
        memcpy(p, sample, n);
        p += n;
        from = b->labels_end[i];
    }
    struct body out = {.raw_n = (size_t)(p - raw)};
    out.n = snappy_max_compressed_length(out.raw_n);
    out.p = must(malloc(out.n));
    if (snappy_compress(raw, out.raw_n, out.p, &out.n) != SNAPPY_OK)
        exit(2);
    out.p = must(realloc(out.p, out.n));
    free(raw);
    return out;
}
