/*
 * Races of read/blocks, for the thread sanitizer: queries from many threads while store-gateways are slow, fail, forget blocks, break off, stop and come again and the ring is
 * published anew. Every answer must be complete and right, or an error. read_blocks_stress [SECONDS]
 */
#include "tests/read/blocks/blocks_rig.h"

#define CALLERS 8
#define GATEWAYS 4

struct stress {
    struct rig rig;
    atomic_bool stop;
    atomic_int fine, failed, canceled;
};

static void query(struct stress *s, unsigned *seed)
{
    struct arena arena;
    atomic_bool canceled = false;
    struct err err = ERR_NONE;
    arena_init(&arena, 64 << 20);
    struct ctx ctx = {.tenant = SL("t"), .arena = &arena, .canceled = &canceled};
    bool hasty = rand_r(seed) % 8 == 0;
    ctx.deadline_ms = clock_mono_ms() + (hasty ? rand_r(seed) % 20 : 20000);
    struct select_params p = s->rig.params;
    int stop_after = rand_r(seed) % 6 == 0 ? rand_r(seed) % 10 : -1;
    struct read_result *got = read_all(&s->rig, &ctx, &p, 1 + (size_t)rand_r(seed) % 64, stop_after, &err);
    atomic_fetch_add(&s->fine, got->ok);
    if (!got->ok) {
        if (!hasty)
            printf("%s\n", err.text);
        atomic_fetch_add(hasty ? &s->canceled : &s->failed, 1);
        free(got);
    } else if (stop_after < 0) {
        bool right = is_exactly(&s->rig, got, ~0u);
        ASSERT(right);
    } else {
        free(got);
    }
    arena_release(&arena);
}

static void ask_values(struct stress *s)
{
    struct arena arena;
    struct err err = ERR_NONE;
    arena_init(&arena, 0);
    struct ctx ctx = {.tenant = SL("t"), .arena = &arena, .deadline_ms = clock_mono_ms() + 20000};
    const struct slice *values;
    size_t n, expected = 0;
    for (int i = 0; i < FAKE_SERIES_MAX; i++)
        expected += any_has(&s->rig, ~0u, i);
    if (s->rig.q->ops->label_values(s->rig.q, &ctx, SL("s"), &s->rig.params, &values, &n, &err))
        ASSERT(n == expected);
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

/* Two of four are in trouble at a time, so that every block has a replica that answers within its tries. */
static void trouble(struct stress *s, unsigned *seed, size_t first)
{
    for (size_t i = first; i < s->rig.n; i += 2) {
        struct fake *f = &s->rig.fakes[i];
        switch (rand_r(seed) % 6) {
        case 0: atomic_store(&f->delay_ms, rand_r(seed) % 80); break;
        case 1: atomic_store(&f->fail_code, RPC_INTERNAL); break;
        case 2: atomic_store(&f->break_after, rand_r(seed) % 25); break;
        case 3: atomic_store(&f->forgets, (unsigned)rand_r(seed)); break;
        case 4:
            fake_stop(f);
            fake_start(f);
            break;
        default: break;
        }
    }
    usleep(200000);
    for (size_t i = first; i < s->rig.n; i += 2) {
        struct fake *f = &s->rig.fakes[i];
        atomic_store(&f->delay_ms, 0);
        atomic_store(&f->fail_code, 0);
        atomic_store(&f->break_after, -1);
        atomic_store(&f->forgets, 0);
    }
    rig_publish(&s->rig);
    usleep(100000); /* the back-off of connections is over before the others' turn */
}

int main(int argc, char **argv)
{
    static struct stress s;
    int64_t seconds = argc > 1 ? atoi(argv[1]) : 5;
    unsigned seed = 1;
    rig_new(&s.rig);
    s.rig.rpc.grpc_workers = 32;
    s.rig.replication = GATEWAYS;
    for (int i = 0; i < 6; i++)
        rig_block(&s.rig, 50 * i, 200, 10000 * (1 + i % 4))->stride = 1 + i % 3;
    for (int i = 0; i < GATEWAYS; i++) {
        struct fake *f = rig_gateway(&s.rig, "a");
        f->cfg.grpc_workers = 32;
        f->batch = 10;
    }
    rig_start(&s.rig);
    pthread_t threads[CALLERS];
    for (size_t i = 0; i < CALLERS; i++)
        if (pthread_create(&threads[i], NULL, caller, &s) != 0)
            return 1;
    for (int64_t until = clock_mono_ms() + seconds * 1000, i = 0; clock_mono_ms() < until; i++)
        trouble(&s, &seed, (size_t)i % 2);
    atomic_store(&s.stop, true);
    for (size_t i = 0; i < CALLERS; i++)
        pthread_join(threads[i], NULL);
    printf("%d queries answered, %d out of time, %d failed\n", atomic_load(&s.fine), atomic_load(&s.canceled), atomic_load(&s.failed));
    rig_stop(&s.rig);
    return atomic_load(&s.failed) ? 1 : 0;
}
