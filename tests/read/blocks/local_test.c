/* A store-gateway of this process, beside others; and any mixture of all of them. */
#include <criterion/criterion.h>

#include "tests/read/blocks/blocks_rig.h"

static struct rig rig;

/* The vtable of a gateway that has the rig's blocks. What it gives is overwritten when it is not valid any more. */
struct direct {
    unsigned forgets;
    struct err fails;
    int fails_after; /* calls on a set; -1: at the select */
    size_t batch;    /* series that one call gives at most; 0: as many as asked for */
    int selects, other_calls, open;
};

struct direct_set {
    struct series_set base;
    struct direct *direct;
    unsigned bits;
    int at, calls;
    bool no_chunks;
    struct arena labels;
    struct fake_chunks *batch;
    size_t n_batch;
};

static void spoil(struct direct_set *s)
{
    if (s->batch)
        memset(s->batch, 0xee, s->n_batch * sizeof(*s->batch));
    free(s->batch);
    s->batch = NULL;
}

static bool direct_next(struct series_set *base, struct ctx *ctx, struct series *ret, size_t max, size_t *ret_n, struct err *err)
{
    struct direct_set *s = CONTAINER_OF(base, struct direct_set, base);
    struct direct *d = s->direct;
    (void)ctx;
    spoil(s);
    *ret_n = 0;
    if (d->fails.code != ERR_OK && s->calls++ == d->fails_after)
        return err_set(err, d->fails.code, "%s", d->fails.text);
    max = d->batch ? MIN(max, d->batch) : max;
    s->batch = calloc(max + 1, sizeof(*s->batch));
    s->n_batch = max;
    for (; s->at < FAKE_SERIES_MAX && *ret_n < max; s->at++) {
        if (!any_has(&rig, s->bits, s->at))
            continue;
        struct fake_chunks *c = &s->batch[*ret_n];
        struct fake_labels *room = ARENA_NEW(&s->labels, struct fake_labels);
        fake_chunks(&rig, s->bits, s->at, c);
        ret[(*ret_n)++] = (struct series){fake_labels(s->at, room), c->chunks, s->no_chunks ? 0 : c->n};
    }
    return true;
}

static void direct_release(struct series_set *base)
{
    struct direct_set *s = CONTAINER_OF(base, struct direct_set, base);
    spoil(s);
    s->direct->open--;
    arena_release(&s->labels);
    free(s);
}

static unsigned find(const struct direct *d, struct ctx *ctx, const struct block_hints *blocks, struct gateway_found *ret)
{
    struct ulid *found = ARENA_ARRAY(ctx->arena, struct ulid, FAKE_BLOCKS_MAX);
    *ret = (struct gateway_found){.blocks = found};
    cr_assert(blocks->index_s > 0, "so that a store-gateway that knows an older index looks for a newer one");
    return fake_found(&rig, d->forgets, blocks, found, &ret->n);
}

static struct series_set *direct_select(void *gateway, struct ctx *ctx, const struct select_params *p, const struct block_hints *blocks, struct gateway_found *ret_found,
                                        struct err *err)
{
    static const struct series_set_ops ops = {direct_next, direct_release};
    struct direct *d = gateway;
    d->selects++;
    if (d->fails.code != ERR_OK && d->fails_after < 0) {
        *err = d->fails;
        return NULL;
    }
    struct direct_set *s = calloc(1, sizeof(*s));
    *s = (struct direct_set){.base = {.ops = &ops}, .direct = d, .no_chunks = p->no_chunks, .bits = find(d, ctx, blocks, ret_found)};
    arena_init(&s->labels, 0);
    d->open++;
    return &s->base;
}

static bool direct_strings(struct direct *d, struct ctx *ctx, const struct block_hints *blocks, struct gateway_found *ret_found, bool values, const struct slice **ret,
                           size_t *ret_n, struct err *err)
{
    d->other_calls++;
    if (d->fails.code != ERR_OK) {
        *err = d->fails;
        return false;
    }
    struct fake_labels *room = ARENA_ARRAY(ctx->arena, struct fake_labels, FAKE_SERIES_MAX);
    struct slice *strings = ARENA_ARRAY(ctx->arena, struct slice, FAKE_SERIES_MAX);
    *ret_n = fake_strings(&rig, find(d, ctx, blocks, ret_found), values, room, strings);
    *ret = strings;
    return true;
}

static bool direct_names(void *gateway, struct ctx *ctx, const struct select_params *p, const struct block_hints *blocks, struct gateway_found *ret_found,
                         const struct slice **ret, size_t *ret_n, struct err *err)
{
    (void)p;
    return direct_strings(gateway, ctx, blocks, ret_found, false, ret, ret_n, err);
}

static bool direct_values(void *gateway, struct ctx *ctx, struct slice name, const struct select_params *p, const struct block_hints *blocks,
                          struct gateway_found *ret_found, const struct slice **ret, size_t *ret_n, struct err *err)
{
    (void)p, (void)name;
    return direct_strings(gateway, ctx, blocks, ret_found, true, ret, ret_n, err);
}

static const struct local_gateway_ops direct_ops = {direct_select, direct_names, direct_values};
static struct direct direct;

static void setup(void)
{
    rig_new(&rig);
    memset(&direct, 0, sizeof(direct));
}

static void teardown(void)
{
    cr_expect_eq(direct.open, 0);
    rig_stop(&rig);
}

TestSuite(local_gateway, .init = setup, .fini = teardown, .timeout = 120);

#define ALL (~0u)
#define EXPECT(bits) cr_expect(is_exactly(&rig, rig_read(&rig), (bits)), "%s", rig.err.text)

/* n gateways of the ring, the first of which is of this process: its server is never asked then. */
static void gateways(size_t n)
{
    for (size_t i = 0; i < n; i++)
        rig_gateway(&rig, "a");
    rig.local = (struct local_gateway){rig.fakes[0].id, &direct_ops, &direct};
}

static void some_blocks(void)
{
    rig_block(&rig, 0, 300, 10000);
    rig_block(&rig, 100, 300, 20000);
    rig_block(&rig, 0, 700, 30000);
    rig_block(&rig, 0, 600, 30000)->stride = 3;
}

Test(local_gateway, it_is_asked_for_all_that_it_has)
{
    some_blocks();
    gateways(3);
    rig_start(&rig);
    EXPECT(ALL);
    rig.params.no_chunks = true;
    EXPECT(ALL);
    cr_expect_eq(direct.selects, 2);
    for (size_t i = 0; i < 3; i++)
        cr_expect_eq(atomic_load(&rig.fakes[i].requests), 0);
}

Test(local_gateway, any_size_of_batches_gives_the_same)
{
    some_blocks();
    gateways(2);
    direct.forgets = 2;
    rig_start(&rig);
    for (size_t batch = 1; batch < 64; batch += 9) {
        direct.batch = 1 + batch % 7;
        cr_expect(is_exactly(&rig, read_all(&rig, &rig.ctx, &rig.params, batch, -1, &rig.err), ALL), "%zu: %s", batch, rig.err.text);
    }
    direct.batch = 0;
    rig.fakes[1].batch = 3;
    EXPECT(ALL);
}

Test(local_gateway, what_it_does_not_know_is_asked_of_others)
{
    some_blocks();
    gateways(3);
    rig_start(&rig);
    for (direct.forgets = 0; direct.forgets < 16; direct.forgets++)
        EXPECT(ALL);
}

Test(local_gateway, when_it_fails_others_are_asked)
{
    some_blocks();
    gateways(3);
    rig_start(&rig);
    direct.fails = (struct err){.code = ERR_CORRUPT, .text = "a broken chunk"};
    direct.batch = 50;
    for (direct.fails_after = -1; direct.fails_after < 16; direct.fails_after++)
        EXPECT(ALL);
}

Test(local_gateway, alone_its_failure_is_the_reason_that_is_given)
{
    some_blocks();
    gateways(1);
    rig_start(&rig);
    direct.fails = (struct err){.code = ERR_CORRUPT, .text = "a broken chunk"};
    direct.batch = 50;
    for (direct.fails_after = -1; direct.fails_after < 4; direct.fails_after++) {
        struct read_result *got = rig_read(&rig);
        cr_expect(!got->ok);
        cr_expect_eq(rig.err.code, ERR_STORE_CONSISTENCY_CHECK_FAILED);
        cr_expect(strstr(rig.err.text, "a broken chunk"), "%s", rig.err.text);
        free(got);
    }
}

Test(local_gateway, its_limits_end_the_query)
{
    some_blocks();
    gateways(3);
    rig_start(&rig);
    direct.fails = (struct err){.code = ERR_MAX_CHUNKS_PER_QUERY, .text = "too many chunks"};
    for (direct.fails_after = -1; direct.fails_after < 2; direct.fails_after++) {
        struct read_result *got = rig_read(&rig);
        cr_expect(!got->ok);
        cr_expect_eq(rig.err.code, ERR_MAX_CHUNKS_PER_QUERY);
        free(got);
    }
    cr_expect_eq(atomic_load(&rig.fakes[1].requests) + atomic_load(&rig.fakes[2].requests), 0);
}

/* It did not have the blocks yet when it was asked first, and has them by now: but each replica is asked once, so that a third one must do. */
Test(local_gateway, others_that_break_off_are_replaced_beside_it)
{
    some_blocks();
    gateways(3);
    rig_start(&rig);
    rig.fakes[1].batch = rig.fakes[2].batch = 20;
    direct.forgets = 5;
    for (int after = 0; after < 40; after++) {
        atomic_store(&rig.fakes[1 + after % 2].break_after, after);
        EXPECT(ALL);
        atomic_store(&rig.fakes[1 + after % 2].break_after, -1);
    }
}

Test(local_gateway, names_and_values)
{
    const struct slice *strings;
    size_t n;
    some_blocks();
    gateways(3);
    rig_start(&rig);
    direct.forgets = 9;
    cr_expect(rig.q->ops->label_names(rig.q, &rig.ctx, &rig.params, &strings, &n, &rig.err), "%s", rig.err.text);
    cr_expect_eq(n, rig.n_blocks + 1);
    cr_expect(rig.q->ops->label_values(rig.q, &rig.ctx, SL("s"), &rig.params, &strings, &n, &rig.err), "%s", rig.err.text);
    cr_expect_eq(n, 700);
    direct.fails = (struct err){.code = ERR_UNAVAILABLE, .text = "not yet"};
    cr_expect(rig.q->ops->label_values(rig.q, &rig.ctx, SL("s"), &rig.params, &strings, &n, &rig.err), "%s", rig.err.text);
    cr_expect_eq(n, 700);
}

/* --- anything at all ---------------------------------------------------------------------------------------------------------------------------- */

static void some_trouble(struct fake *f, unsigned *seed)
{
    atomic_store(&f->forgets, rand_r(seed) % 3 ? 0 : (unsigned)rand_r(seed));
    atomic_store(&f->break_after, rand_r(seed) % 3 ? -1 : rand_r(seed) % 30);
    atomic_store(&f->fail_code, rand_r(seed) % 6 ? 0 : RPC_INTERNAL);
    atomic_store(&f->delay_ms, rand_r(seed) % 4 ? 0 : rand_r(seed) % 10);
    f->batch = 1 + (size_t)rand_r(seed) % 60;
}

/*
 * Whichever blocks hold which part of the data, whoever has them, is slow, forgets them or breaks off: the answer is that of all blocks in one store. With one gateway
 * that is well and has everything there always is an answer: each block is asked of three.
 */
Test(local_gateway, any_distribution_gives_what_one_store_would)
{
    unsigned seed = 11;
    for (int i = 0; i < 10; i++) {
        struct fake_block *b = rig_block(&rig, rand_r(&seed) % 400, 1 + rand_r(&seed) % 500, 10000 * (1 + rand_r(&seed) % 6));
        b->stride = 1 + rand_r(&seed) % 5;
    }
    gateways(3);
    rig_start(&rig);
    int fine = 0;
    for (int round = 0; round < 120; round++) {
        direct.forgets = rand_r(&seed) % 2 ? 0 : (unsigned)rand_r(&seed);
        direct.batch = (size_t)rand_r(&seed) % 50;
        direct.fails = rand_r(&seed) % 3 ? ERR_NONE : (struct err){.code = ERR_IO, .text = "made up"};
        direct.fails_after = rand_r(&seed) % 20 - 1;
        some_trouble(&rig.fakes[1], &seed);
        size_t batch = 1 + (size_t)rand_r(&seed) % 64;
        rig.err = ERR_NONE;
        cr_expect(is_exactly(&rig, read_all(&rig, &rig.ctx, &rig.params, batch, -1, &rig.err), ALL), "round %d: %s", round, rig.err.text);
        fine += rig.err.code == ERR_OK;
    }
    cr_expect_eq(fine, 120);
}
