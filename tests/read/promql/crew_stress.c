/*
 * Races in queries that several threads work on: four clients of two tenants ask one store at once, some go away in the middle, some have too little
 * memory; what is answered must be what one thread answers. Run under TSan.
 *
 *     read_promql_crew_stress [seconds]
 */
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

#include "base/clock.h"
#include "crew_fake.h"

#define CLIENTS 4

static const struct engine_config plain = {.lookback_delta_ms = 300000, .default_evaluation_interval_ms = 60000};
static struct fake_store stores[2];
static struct engine_crew *crew;
static struct engine_result want[2][ARRAY_LEN(fake_queries)];
static bool want_ok[ARRAY_LEN(fake_queries)];
static struct arena want_arena;
static atomic_size_t asked, given_up;
static int64_t until_ms;

static void *cancel_soon(void *arg)
{
    usleep(1500);
    atomic_store_explicit((atomic_bool *)arg, true, memory_order_relaxed);
    return NULL;
}

static void ask(size_t query, size_t store, bool leaves, bool poor, struct slice tenant)
{
    struct arena a;
    arena_init(&a, 0);
    atomic_bool canceled = false;
    struct ctx ctx = {.arena = &a, .tenant = tenant, .canceled = &canceled};
    struct engine_config cfg = plain;
    struct engine_result r;
    struct err err = ERR_NONE;
    pthread_t leaver;
    cfg.crew = crew;
    cfg.max_memory_bytes = poor ? 600000 : 0;
    if (leaves)
        ASSERT(pthread_create(&leaver, NULL, cancel_soon, &canceled) == 0);
    bool ok = fake_exec(&stores[store], &cfg, fake_queries[query], false, &ctx, &r, &err);
    if (leaves)
        pthread_join(leaver, NULL);
    ASSERT(ok == want_ok[query] || leaves || poor);
    ASSERT(!ok || fake_same(&r, &want[store][query]));
    atomic_fetch_add(&asked, 1);
    atomic_fetch_add(&given_up, !ok);
    arena_release(&a);
}

static void *client(void *arg)
{
    uint64_t r = (uint64_t)(uintptr_t)arg + 1;
    while (clock_mono_ms() < until_ms) {
        r = fake_mix(r + 1);
        ask(r % ARRAY_LEN(fake_queries), r >> 8 & 1, (r >> 16) % 4 == 0, (r >> 24) % 5 == 0, (uintptr_t)arg % 2 ? SL("a") : SL("b"));
    }
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t threads[CLIENTS];
    until_ms = clock_mono_ms() + (argc > 1 ? atoi(argv[1]) : 5) * 1000;
    arena_init(&want_arena, 0);
    for (size_t s = 0; s < 2; s++) {
        fake_store_init(&stores[s], 600, s == 0);
        for (size_t i = 0; i < ARRAY_LEN(fake_queries); i++) {
            struct err err = ERR_NONE;
            struct ctx ctx = {.arena = &want_arena};
            want_ok[i] = fake_exec(&stores[s], &plain, fake_queries[i], false, &ctx, &want[s][i], &err);
        }
    }
    crew = engine_crew_new(4, 0);
    for (uintptr_t i = 0; i < CLIENTS; i++)
        ASSERT(pthread_create(&threads[i], NULL, client, (void *)i) == 0);
    for (size_t i = 0; i < CLIENTS; i++)
        pthread_join(threads[i], NULL);
    engine_crew_free(crew);
    printf("%zu queries, %zu of them ended before their time\n", atomic_load(&asked), atomic_load(&given_up));
    for (size_t s = 0; s < 2; s++)
        arena_release(&stores[s].arena);
    arena_release(&want_arena);
    return 0;
}
