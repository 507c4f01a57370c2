/*
 * What the steps between a push's bytes and its series cost, on one thread, without snappy: the scan, the walk over all
 * labels, the look whether they are canonical, the hash; the same for the symbol form; and a record from its bytes to
 * hashed series.
 *
 *     bench_scan [runs]
 *
 * Data: 100 requests of 2,000 series of 11 labels (about 230 bytes of text) with one sample. Each is copied to a buffer
 * of its own first (not timed), as decompression would have put it there. Figures are thread CPU ns a series: minimum
 * and median of the runs.
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "log/record.h"
#include "tests/model/wire.h"

enum { REQUESTS = 100, SERIES = 2000, LABELS = 11, RUNS_MAX = 101 };

static volatile uint64_t sink;

static double cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static const char *const names[LABELS] = {"__name__", "cluster", "code",      "container", "handler", "instance",
                                          "job",      "le",      "namespace", "pod",       "zone"};

static void value_of(char *out, size_t cap, int request, int series, int label)
{
    switch (label) {
    case 0:
        snprintf(out, cap, "http_request_duration_seconds_bucket");
        break;
    case 4:
        snprintf(out, cap, "/api/v1/handler-%d", series % 17);
        break;
    case 5:
        snprintf(out, cap, "10.%d.%d.7:9090", request, series / 100);
        break;
    case 9:
        snprintf(out, cap, "frontend-%d-5d8f7c9b6d-%05d", request, series / 100);
        break;
    default:
        snprintf(out, cap, "value-of-%d-%d", label, series % 100);
    }
}

static void make_request(struct buf *msg, int request)
{
    struct buf ts = {0};
    char value[64];
    for (int s = 0; s < SERIES; s++) {
        for (int l = 0; l < LABELS; l++) {
            value_of(value, sizeof(value), request, s, l);
            wire_label(&ts, names[l], value);
        }
        wire_sample(&ts, 1700000000000 + request, s);
        wire_message(msg, 1, &ts);
    }
    buf_release(&ts);
}

static void make_request_v2(struct buf *msg, int request)
{
    struct buf ts = {0}, none = {0}, list = {0};
    char value[64];
    uint32_t next = 1 + LABELS;
    wire_str(msg, 4, "");
    for (int l = 0; l < LABELS; l++)
        wire_str(msg, 4, names[l]);
    for (int s = 0; s < SERIES; s++) {
        uint32_t refs[2 * LABELS];
        for (int l = 0; l < LABELS; l++) {
            refs[2 * l] = (uint32_t)(1 + l);
            refs[2 * l + 1] = next++;
            value_of(value, sizeof(value), request, s, l);
            wire_str(msg, 4, value);
        }
        wire_refs(&ts, 1, refs, 2 * LABELS);
        wire_sample(&ts, 1700000000000 + request, s);
        wire_message(&ts, 5, &none);
        wire_message(&list, 5, &ts);
    }
    buf_put_slice(msg, buf_slice(&list));
    buf_release(&ts), buf_release(&list);
}

/* --- steps ----------------------------------------------------------------------------------------------------------
 */

struct work {
    struct buf *requests;
    struct buf message;            /* the request at hand */
    struct write_request *scanned; /* of a scan before, for the steps that need one */
    struct arena arena;
};

static void step_scan(struct work *w, int i)
{
    (void)i;
    struct write_request req;
    arena_clear(&w->arena);
    if (!write_request_scan(buf_slice(&w->message), &w->arena, &req, NULL))
        abort();
    sink += req.n_samples;
}

static void step_scan_v2(struct work *w, int i)
{
    (void)i;
    struct write_request req;
    arena_clear(&w->arena);
    if (!write_request_scan_v2(buf_slice(&w->message), WRITE_SYMBOLS_RW2, &w->arena, &req, NULL))
        abort();
    sink += req.n_samples;
}

static void step_walk(struct work *w, int i)
{
    const struct write_request *req = &w->scanned[i];
    for (size_t s = 0; s < req->n_series; s++) {
        struct write_label_iter it = write_label_iter(req->series[s].labels);
        struct label l;
        while (write_label_next(&it, &l) > 0)
            sink += l.value.n;
    }
}

static void step_canonical(struct work *w, int i)
{
    const struct write_request *req = &w->scanned[i];
    for (size_t s = 0; s < req->n_series; s++)
        sink += label_span_is_canonical(req->series[s].labels);
}

static void step_hash(struct work *w, int i)
{
    const struct write_request *req = &w->scanned[i];
    for (size_t s = 0; s < req->n_series; s++)
        sink += series_hash_of(req->series[s].labels, 0x9e3779b97f4a7c15).lo;
}

static void step_record(struct work *w, int i)
{
    (void)i;
    struct plog_record rec = {.tenant = SL("t"), .value = buf_slice(&w->message)};
    struct write_request req;
    arena_clear(&w->arena);
    if (!record_decode(&rec, 0x9e3779b97f4a7c15, &w->arena, &req, NULL))
        abort();
    sink += req.n_samples;
}

static void step_encode(struct work *w, int i)
{
    struct buf out = {0};
    record_encode_v0(&w->scanned[i], NULL, 0, NULL, 0, &out);
    sink += out.n;
    buf_release(&out);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void measure(const char *what, struct work *w, int runs, void (*step)(struct work *, int))
{
    double ns[RUNS_MAX];
    for (int r = 0; r < runs; r++) {
        ns[r] = 0;
        for (int i = 0; i < REQUESTS; i++) {
            buf_clear(&w->message);
            buf_put_slice(&w->message, buf_slice(&w->requests[i]));
            double start = cpu_ns();
            step(w, i);
            ns[r] += (cpu_ns() - start) / ((double)REQUESTS * SERIES);
        }
    }
    qsort(ns, (size_t)runs, sizeof(ns[0]), by_value);
    printf("%-44s %7.1f %7.1f ns/series\n", what, ns[0], ns[runs / 2]);
}

int main(int argc, char **argv)
{
    static struct buf rw1[REQUESTS], rw2[REQUESTS];
    static struct write_request scanned[REQUESTS];
    int runs = argc > 1 ? atoi(argv[1]) : 9;
    runs = runs < 1 ? 1 : runs > RUNS_MAX ? RUNS_MAX : runs;
    struct arena keep;
    arena_init(&keep, 0);
    for (int i = 0; i < REQUESTS; i++) {
        make_request(&rw1[i], i);
        make_request_v2(&rw2[i], i);
        if (!write_request_scan(buf_slice(&rw1[i]), &keep, &scanned[i], NULL))
            abort();
    }
    struct work w = {.requests = rw1, .scanned = scanned};
    arena_init(&w.arena, 0);
    printf("%zu bytes a series; columns: minimum, median of %d runs\n", rw1[0].n / SERIES, runs);
    measure("scan, remote write 1.0", &w, runs, step_scan);
    measure("walk all labels", &w, runs, step_walk);
    measure("labels canonical?", &w, runs, step_canonical);
    measure("hash (XXH3-128)", &w, runs, step_hash);
    measure("record_decode, version 0 (scan, look, hash)", &w, runs, step_record);
    measure("record_encode_v0", &w, runs, step_encode);
    w.requests = rw2;
    measure("scan, symbol form", &w, runs, step_scan_v2);
    buf_release(&w.message);
    arena_release(&w.arena);
    arena_release(&keep);
    return 0;
}
