/*
 * Store-gateways that say nothing. When one has been silent for the hedging delay its blocks are asked of others too, beside it, and the first answer counts:
 *
 *     running, asked ---silent---> running, slow: each of its blocks that has another replica is open again, and remembers it
 *     slow ---it answers-----------> answered: it gets the blocks that nobody has answered meanwhile; those who were asked for them are canceled
 *          ---others answer for all---> canceled
 *          ---nobody is left to ask---> the block is its own again: it is waited for, to the query's deadline
 *
 * Two answers may hold the same block: the merge gives equal chunks once. While chunks are read there is nobody beside: the stream is taken over, and whoever was
 * slow is asked again when all others have failed or been slow too. Each time that happens to a block the patience with whoever is asked for it doubles, so that
 * one that is slow and good is waited for in the end, whatever hangs beside it.
 *
 * Between calls: whoever was silent is asked after all others for some time, so that not each query waits for it anew. It is asked for what nobody else has.
 */
#include "base/clock.h"
#include "read/blocks/blocks_int.h"

/* Taking a stream over throws away what was read of it, so that a slow one is given more time. */
#define CHUNKS_PATIENCE 3
/* How often that may happen to a block: with the default delay the patience is longer than a query may take by then. */
#define GIVEN_UP_MAX 6
/* How long silence is remembered, in hedging delays: a minute, about what the ring needs to see that a process is gone. */
#define SILENCE_REMEMBERED 12

static void note_silence(const struct fetch *f, const struct attempt *a)
{
    peers_note_silence(&f->q->peers, a->peer, clock_mono_ms() + f->q->cfg->hedging_delay * SILENCE_REMEMBERED);
}

static bool waits_for(const struct block *b, const struct attempt *a)
{
    for (size_t i = 0; i < b->n_slow; i++)
        if (b->slow[i] == a)
            return true;
    return false;
}

/* The attempt is canceled as far as the block goes, and its try is not counted: a slow one would else be lost to the query by being asked first. */
static void outrun(struct block *b, const struct attempt *a)
{
    for (size_t i = 0; i < b->n_tried; i++)
        if (b->tried[i].gateway == a->gateway)
            b->tried[i].outrun = true;
    b->tries--;
}

/* The block does not wait for it any more. False: it did not. */
static bool forget(struct block *b, const struct attempt *a)
{
    for (size_t i = 0; i < b->n_slow; i++)
        if (b->slow[i] == a) {
            b->slow[i] = b->slow[--b->n_slow];
            return true;
        }
    return false;
}

static void give_block(struct attempt *a, struct block *b, enum block_state state)
{
    b->state = state;
    b->next = a->blocks;
    a->blocks = b;
}

/* The delay, doubled each time that one of its blocks was given up: else one that names series at once, and hangs then, would outrun all that are good and slow. */
static int64_t delay_ms_of(const struct fetch *f, const struct attempt *a)
{
    unsigned doubled = 0;
    for (const struct block *b = a->blocks; b; b = b->next)
        doubled = MAX(doubled, b->n_given_up);
    return f->q->cfg->hedging_delay << doubled;
}

int64_t blocks_hedge_at_ms(const struct fetch *f, const struct attempt *a)
{
    int64_t delay_ms = delay_ms_of(f, a);
    return delay_ms > 0 && a->stream && !a->slow ? a->heard_ms + delay_ms : INT64_MAX;
}

static void hedge(struct fetch *f, struct attempt *a)
{
    struct block *blocks = a->blocks;
    a->slow = true;
    a->blocks = NULL;
    for (struct block *b = blocks, *next; b; b = next) {
        next = b->next;
        b->next = NULL;
        if (b->n_slow == ARRAY_LEN(b->slow)) {
            give_block(a, b, BLOCK_ASKED);
            continue;
        }
        b->slow[b->n_slow++] = a;
        b->state = BLOCK_OPEN;
    }
    note_silence(f, a);
    f->n_hedged++;
    metric_inc(metric_single(blocks_metrics[BLOCKS_M_HEDGED]));
}

void blocks_hedge(struct fetch *f)
{
    int64_t now_ms = clock_mono_ms();
    for (struct attempt *a = f->running; a; a = a->next)
        if (blocks_hedge_at_ms(f, a) <= now_ms)
            hedge(f, a);
}

bool blocks_hedge_give_back(struct block *b)
{
    if (b->n_slow == 0)
        return false;
    give_block(b->slow[--b->n_slow], b, BLOCK_ASKED);
    return true;
}

void blocks_hedge_failed(struct fetch *f, const struct attempt *a, void (*failed)(struct block *b, const struct attempt *a, const struct err *why), const struct err *why)
{
    for (size_t i = 0; a->slow && i < f->n_blocks; i++)
        if (forget(&f->blocks[i], a))
            failed(&f->blocks[i], a, why);
}

/* Off the list of whoever is asked for it now, who is outrun. */
static void withdraw(struct fetch *f, struct block *b)
{
    for (struct attempt *a = f->running; a; a = a->next)
        for (struct block **p = &a->blocks; *p; p = &(*p)->next)
            if (*p == b) {
                *p = b->next;
                outrun(b, a);
                return;
            }
}

static void answered(struct block *b)
{
    for (; b->n_slow; b->n_slow--)
        outrun(b, b->slow[b->n_slow - 1]);
}

void blocks_hedge_answered(struct fetch *f, struct attempt *a, bool (*found)(const struct attempt *a, const struct block *b))
{
    for (size_t i = 0; a->slow && i < f->n_blocks; i++) {
        struct block *b = &f->blocks[i];
        if (!forget(b, a) || !found(a, b))
            continue;
        withdraw(f, b);
        give_block(a, b, BLOCK_ANSWERED);
    }
    for (struct block *b = a->blocks; b; b = b->next)
        answered(b);
}

static bool is_waited_for(const struct fetch *f, const struct attempt *a)
{
    for (size_t i = 0; a->slow && i < f->n_blocks; i++)
        if (waits_for(&f->blocks[i], a))
            return true;
    return a->blocks;
}

void blocks_hedge_sweep(struct fetch *f)
{
    if (f->n_hedged == 0)
        return;
    for (struct attempt **p = &f->running; *p;) {
        struct attempt *a = *p;
        if (is_waited_for(f, a)) {
            p = &a->next;
            continue;
        }
        *p = a->next;
        blocks_attempt_free(f, a);
    }
}

void blocks_hedge_given_up(struct block *b, const struct attempt *a)
{
    b->n_given_up++;
    for (size_t i = 0; i < b->n_tried; i++)
        if (b->tried[i].gateway == a->gateway)
            b->tried[i].given_up = b->n_given_up;
    b->tries--;
}

/* 0: there is nobody else for some block that it answers from. */
static int64_t patience_ms(struct fetch *f, const struct attempt *a)
{
    for (const struct block *b = a->blocks; b; b = b->next)
        if (b->n_given_up == GIVEN_UP_MAX || !blocks_plan_has_other(f, b, a->gateway))
            return 0;
    return delay_ms_of(f, a) * CHUNKS_PATIENCE;
}

bool blocks_hedge_wait(struct fetch *f, struct attempt *a, struct err *why)
{
    if (f->q->cfg->hedging_delay <= 0 || rpc_stream_wait_any(&a->stream, 1, 0) == 0)
        return true;
    int64_t delay_ms = patience_ms(f, a);
    if (delay_ms == 0 || rpc_stream_wait_any(&a->stream, 1, delay_ms) == 0)
        return true;
    a->given_up = true;
    note_silence(f, a);
    return err_set(why, ERR_UNAVAILABLE, "no chunks came for %lld ms", (long long)delay_ms);
}
