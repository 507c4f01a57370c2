/*
 * Races of read/ingesters, for the thread sanitizer: queries from many threads over two zones while ingesters are slow, fail, break off, stop and come again and the
 * rings change. Every answer must be complete and right, or an error. read_ingesters_stress [SECONDS]
 */
#include "tests/read/ingesters/ingesters_rig.h"

#define CALLERS 8
#define PARTITIONS 3
#define SERIES 200

struct stress {
    struct rig rig;
    atomic_bool stop;
    atomic_int fine, failed, canceled;
};

/* Partition i has series 100 i .. 100 i + 199. */
static int expected_samples(int s)
{
    int n = 0;
    for (int i = 0; i < PARTITIONS; i++)
        n += s >= 100 * i && s < 100 * i + SERIES ? FAKE_SAMPLES : 0;
    return n;
}

static void check(const struct read_result *got)
{
    ASSERT(got->n == 100 * (PARTITIONS - 1) + SERIES);
    for (int s = 0; s < got->n; s++)
        ASSERT(got->times[s] == 1 && got->samples[s] == expected_samples(s));
}

static void query(struct stress *s, unsigned *seed)
{
    struct arena arena;
    atomic_bool canceled = false;
    struct err err = ERR_NONE;
    arena_init(&arena, 64 << 20);
    struct ctx ctx = {.tenant = SL("t"), .arena = &arena, .canceled = &canceled};
    bool hasty = rand_r(seed) % 8 == 0;
    ctx.deadline_ms = clock_mono_ms() + (hasty ? rand_r(seed) % 20 : 20000);
    const struct select_params p = {.max_t = 1000000, .matchers = &s->rig.matcher, .n_matchers = 1, .no_chunks = rand_r(seed) % 5 == 0};
    int stop_after = rand_r(seed) % 6 == 0 ? rand_r(seed) % 10 : -1;
    struct read_result *got = read_all(&s->rig, &ctx, &p, stop_after, &err);
    if (!got->ok && !hasty)
        printf("%s\n", err.text);
    if (!got->ok)
        atomic_fetch_add(hasty ? &s->canceled : &s->failed, 1);
    else if (stop_after < 0 && !p.no_chunks)
        check(got);
    atomic_fetch_add(&s->fine, got->ok);
    free(got);
    arena_release(&arena);
}

static void ask_values(struct stress *s)
{
    struct arena arena;
    struct err err = ERR_NONE;
    arena_init(&arena, 0);
    struct ctx ctx = {.tenant = SL("t"), .arena = &arena, .deadline_ms = clock_mono_ms() + 20000};
    const struct select_params p = {.max_t = 1000000};
    const struct slice *values;
    size_t n;
    if (s->rig.q->ops->label_values(s->rig.q, &ctx, SL("s"), &p, &values, &n, &err))
        ASSERT(n == 100 * (PARTITIONS - 1) + SERIES);
    else
        atomic_fetch_add(&s->failed, 1);
    arena_release(&arena);
}

static void *caller(void *arg)
{
    struct stress *s = arg;
    unsigned seed = (unsigned)clock_mono_ns();
    while (!atomic_load(&s->stop)) {
        if (rand_r(&seed) % 4)
            query(s, &seed);
        else
            ask_values(s);
    }
    return NULL;
}

/* One zone at a time is in trouble, so that every partition has an owner that answers. Any may lag, in both. */
static void trouble(struct stress *s, unsigned *seed, bool zone)
{
    for (size_t i = 0; i < s->rig.n; i++)
        atomic_store(&s->rig.fakes[i].behind_ms, rand_r(seed) % 3 * 3000);
    for (size_t i = zone; i < s->rig.n; i += 2) {
        struct fake *f = &s->rig.fakes[i];
        switch (rand_r(seed) % 6) {
        case 0: atomic_store(&f->delay_ms, rand_r(seed) % 80); break;
        case 1: atomic_store(&f->fail_code, RPC_INTERNAL); break;
        case 2: atomic_store(&f->break_after, rand_r(seed) % 25); break;
        case 3: atomic_store(&f->stall_after, rand_r(seed) % 25); break;
        case 4:
            fake_stop(f);
            fake_start(f);
            break;
        default: break;
        }
    }
    usleep(200000);
    for (size_t i = zone; i < s->rig.n; i += 2) {
        struct fake *f = &s->rig.fakes[i];
        atomic_store(&f->delay_ms, 0);
        atomic_store(&f->fail_code, 0);
        atomic_store(&f->break_after, -1);
        atomic_store(&f->stall_after, -1);
    }
    rig_publish(&s->rig);
    usleep(100000); /* the back-off of connections is over before the other zone's turn */
}

int main(int argc, char **argv)
{
    static struct stress s;
    int64_t seconds = argc > 1 ? atoi(argv[1]) : 5;
    unsigned seed = 1;
    rig_new(&s.rig);
    s.rig.cfg.hedging_delay = 20;
    s.rig.rpc.grpc_workers = 32;
    for (int i = 0; i < PARTITIONS; i++) {
        for (int zone = 0; zone < 2; zone++) {
            struct fake *f = rig_add(&s.rig, zone ? "b" : "a", i, 100 * i, SERIES);
            f->cfg.grpc_workers = 32;
            f->t0 = 100000 * i;
            f->batch = 10;
            f->backwards = zone && i == 1;
        }
    }
    rig_start(&s.rig);
    pthread_t threads[CALLERS];
    for (size_t i = 0; i < CALLERS; i++)
        if (pthread_create(&threads[i], NULL, caller, &s) != 0)
            return 1;
    for (int64_t until = clock_mono_ms() + seconds * 1000, i = 0; clock_mono_ms() < until; i++)
        trouble(&s, &seed, i % 2);
    atomic_store(&s.stop, true);
    for (size_t i = 0; i < CALLERS; i++)
        pthread_join(threads[i], NULL);
    printf("%d queries answered, %d out of time, %d failed\n", atomic_load(&s.fine), atomic_load(&s.canceled), atomic_load(&s.failed));
    rig_stop(&s.rig);
    return atomic_load(&s.failed) ? 1 : 0;
}
