/*
 * Races of read/remote, for the thread sanitizer: answers whose queries several threads give their results to, in both forms, large enough for a spill that is a file; some
 * run into a limit. Every whole answer has the bytes of one that a single thread made. read_remote_stress [SECONDS]
 */
#include <stdio.h>

#include "base/clock.h"
#include "base/parallel.h"
#include "storage/join/join.h"
#include "tests/read/remote/remote_rig.h"

#define QUERIES 8
#define SERIES 300

struct job {
    const struct series (*lists)[SERIES];
    struct remote_answer *answer;
};

static bool add_one(void *arg, size_t i, struct err *err)
{
    struct job *j = arg;
    struct remote_query q = {.start_ms = (int64_t)i * 1000, .end_ms = INT64_MAX};
    struct arena arena;
    arena_init(&arena, 0);
    struct ctx ctx = {.arena = &arena};
    struct made_set set = {{&made_ops, NULL}, j->lists[i], SERIES - i * 20, 0};
    bool good = remote_answer_add(j->answer, i, &q, i == 3 ? NULL : &set.base, &ctx, err);
    arena_release(&arena);
    return good;
}

/* False: it ended at a limit. */
static bool make(const struct series (*lists)[SERIES], enum remote_form form, uint64_t max_series, size_t threads, struct buf *out)
{
    const struct remote_limits limits = {.max_series = max_series};
    struct err err = ERR_NONE;
    struct job job = {lists, remote_answer_new(form, QUERIES, &limits, "/tmp")};
    bool good = parallel_run(QUERIES, threads, add_one, &job, &err) && remote_answer_finish(job.answer, &err);
    for (size_t before = SIZE_MAX; good && out->n != before;) {
        before = out->n;
        good = remote_answer_next(job.answer, 1 << 20, out, &err);
    }
    if (!good && err.code != ERR_MAX_SERIES_PER_QUERY) {
        printf("%s\n", err.text);
        abort();
    }
    remote_answer_free(job.answer);
    return good;
}

int main(int argc, char **argv)
{
    static struct series lists[QUERIES][SERIES];
    int64_t end_ms = clock_mono_ms() + 1000 * (argc > 1 ? atoi(argv[1]) : 5);
    struct buf want[2] = {0};
    size_t whole = 0, cut = 0;
    arena_init(&made, 0);
    for (size_t q = 0; q < QUERIES; q++)
        for (size_t i = 0; i < SERIES; i++) {
            struct series_chunk *c = chunks(2);
            c[0] = floats(0, 15000, 100, (double)(q * i));
            c[1] = floats(i % 16 ? 1500000 : 700000, 15000, 100, (double)(q + i)); /* some overlap: decoded and merged */
            lists[q][i] = series_of((i * 7 + q) % SERIES, c, 2);
        }
    for (int form = 0; form < 2; form++)
        make(lists, form == 0 ? REMOTE_SAMPLES : REMOTE_CHUNKS, 0, 1, &want[form]);
    for (size_t round = 0; clock_mono_ms() < end_ms; round++) {
        struct buf got = {0};
        bool limited = round % 5 == 4, good = make(lists, round % 2 == 0 ? REMOTE_SAMPLES : REMOTE_CHUNKS, limited ? 500 : 0, 2 + round % 5, &got);
        const struct buf *same = &want[round % 2];
        if (good && (limited || got.n != same->n || memcmp(got.p, same->p, got.n) != 0)) {
            printf("another answer in round %zu\n", round);
            abort();
        }
        *(good ? &whole : &cut) += 1;
        buf_release(&got);
    }
    printf("%zu answers of %zu and %zu bytes, %zu at a limit\n", whole, want[0].n, want[1].n, cut);
    buf_release(&want[0]);
    buf_release(&want[1]);
    arena_release(&made);
    return 0;
}
