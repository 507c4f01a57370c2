/*
 * Last produced offsets: rounds of questions, put by one thread.
 *
 * A waiter marks its partitions as wanted and waits for the round that begins next: rounds_begun + 1. The thread begins a round with all that is wanted
 * then, asks without the lock, and writes to each partition the round that its answer is of. So an answer never is older than whoever gets it.
 *
 * Memory: 24 bytes a partition of the log.
 */
#include "log/last_produced.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/assert.h"
#include "base/clock.h"

#define CANCEL_LOOK_MS 20 /* so often a waiter looks whether its query was canceled */
#define SPACING_PART 100  /* of the poll interval */
#define PARTITIONS_ROOM 65536 /* more than any topic has; what is asked for may come from outside */

struct answer {
    bool wanted;
    bool failed;
    uint64_t round; /* that the rest is of; 0 = none yet */
    int64_t offset;
};

struct last_produced {
    struct plog *log;   /* not owned */
    int64_t spacing_ms; /* immutable */
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wanted_more; /* for the thread */
    pthread_cond_t answered;    /* for waiters */
    bool closing;               /* guarded by lock, as are the rest */
    size_t n_wanted;
    uint64_t rounds_begun;
    struct answer *answers; /* by partition */
    size_t n_answers;       /* grows: a topic may */
    struct err err;         /* of the newest round that failed */
};

static void wait_until(pthread_cond_t *cond, pthread_mutex_t *lock, int64_t mono_ms)
{
    struct timespec t = {.tv_sec = mono_ms / 1000, .tv_nsec = mono_ms % 1000 * 1000000};
    int rc = pthread_cond_timedwait(cond, lock, &t);
    ASSERT(rc == 0 || rc == ETIMEDOUT);
}

/* --- the thread --- */

struct round {
    int32_t *partitions;
    int64_t *next;
    size_t n;
};

/* Takes what is wanted; lock held. */
static struct round round_begin(struct last_produced *lp)
{
    struct round r = {.partitions = calloc(lp->n_wanted, sizeof(int32_t)), .next = calloc(lp->n_wanted, sizeof(int64_t))};
    ASSERT(r.partitions && r.next);
    for (size_t i = 0; i < lp->n_answers; i++) {
        if (!lp->answers[i].wanted)
            continue;
        lp->answers[i].wanted = false;
        r.partitions[r.n++] = (int32_t)i;
    }
    ASSERT(r.n == lp->n_wanted);
    lp->n_wanted = 0;
    lp->rounds_begun++;
    return r;
}

/* Lock held. Only this thread begins rounds, so the one that ends is the newest begun. */
static void round_end(struct last_produced *lp, struct round *r, const struct err *failure)
{
    for (size_t i = 0; i < r->n; i++) {
        struct answer *a = &lp->answers[r->partitions[i]];
        a->round = lp->rounds_begun;
        a->failed = failure != NULL;
        a->offset = r->next[i] - 1;
    }
    if (failure)
        lp->err = *failure;
    pthread_cond_broadcast(&lp->answered);
    free(r->partitions);
    free(r->next);
}

static void *asker_main(void *arg)
{
    struct last_produced *lp = arg;
    int64_t not_before_ms = 0;
    pthread_mutex_lock(&lp->lock);
    while (!lp->closing) {
        if (lp->n_wanted == 0) {
            pthread_cond_wait(&lp->wanted_more, &lp->lock);
            continue;
        }
        if (clock_mono_ms() < not_before_ms) {
            wait_until(&lp->wanted_more, &lp->lock, not_before_ms);
            continue;
        }
        not_before_ms = clock_mono_ms() + lp->spacing_ms;
        struct round r = round_begin(lp);
        pthread_mutex_unlock(&lp->lock);
        struct err err = ERR_NONE;
        bool ok = plog_ends(lp->log, r.partitions, r.n, r.next, &err);
        pthread_mutex_lock(&lp->lock);
        round_end(lp, &r, ok ? NULL : &err);
    }
    pthread_mutex_unlock(&lp->lock);
    return NULL;
}

/* --- waiting --- */

/* Lock held. False: it can be no partition of any log. */
static bool want(struct last_produced *lp, int32_t partition, struct err *err)
{
    if (partition < 0 || partition >= PARTITIONS_ROOM)
        return err_set(err, ERR_NOT_FOUND, "the log has no partition %d", (int)partition);
    size_t i = (size_t)partition;
    if (i >= lp->n_answers) {
        size_t n = MAX(i + 1, 2 * lp->n_answers);
        lp->answers = realloc(lp->answers, n * sizeof(lp->answers[0]));
        ASSERT(lp->answers);
        memset(&lp->answers[lp->n_answers], 0, (n - lp->n_answers) * sizeof(lp->answers[0]));
        lp->n_answers = n;
    }
    lp->n_wanted += !lp->answers[i].wanted;
    lp->answers[i].wanted = true;
    return true;
}

/* Takes the answers of the round or a later one; lock held. *ret_all: each partition has one. */
static bool collect(const struct last_produced *lp, uint64_t round, struct partition_offset *ret, size_t n, bool *ret_all,
                    struct err *err)
{
    *ret_all = false;
    for (size_t i = 0; i < n; i++) {
        const struct answer *a = &lp->answers[ret[i].partition];
        if (a->round < round)
            return true;
        if (a->failed) {
            if (err)
                *err = lp->err;
            return false;
        }
        ret[i].offset = a->offset;
    }
    *ret_all = true;
    return true;
}

bool last_produced_wait(struct last_produced *lp, struct ctx *ctx, struct partition_offset *ret, size_t n, struct err *err)
{
    bool ok = true, all = false;
    pthread_mutex_lock(&lp->lock);
    for (size_t i = 0; ok && i < n; i++)
        ok = want(lp, ret[i].partition, err);
    pthread_cond_signal(&lp->wanted_more);
    uint64_t round = lp->rounds_begun + 1;
    while (ok && (ok = collect(lp, round, ret, n, &all, err)) && !all && (ok = ctx_check(ctx, err))) {
        int64_t until_ms = clock_mono_ms() + CANCEL_LOOK_MS;
        if (ctx->deadline_ms && (!ctx->canceled || ctx->deadline_ms < until_ms))
            until_ms = ctx->deadline_ms;
        wait_until(&lp->answered, &lp->lock, until_ms);
    }
    pthread_mutex_unlock(&lp->lock);
    return ok;
}

/* --- life --- */

struct last_produced *last_produced_new(struct plog *log, const struct plog_config *cfg)
{
    struct last_produced *lp = calloc(1, sizeof(*lp));
    ASSERT(lp);
    lp->log = log;
    lp->spacing_ms = MAX(cfg->kafka_offset_poll_interval, 0) / SPACING_PART;
    lp->n_answers = (size_t)MAX(plog_partitions(log), 1);
    lp->answers = calloc(lp->n_answers, sizeof(lp->answers[0]));
    ASSERT(lp->answers);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&lp->lock, NULL);
    pthread_cond_init(&lp->wanted_more, &attr);
    pthread_cond_init(&lp->answered, &attr);
    pthread_condattr_destroy(&attr);
    int rc = pthread_create(&lp->thread, NULL, asker_main, lp);
    ASSERT(rc == 0);
    return lp;
}

void last_produced_free(struct last_produced *lp)
{
    if (!lp)
        return;
    pthread_mutex_lock(&lp->lock);
    lp->closing = true;
    pthread_cond_signal(&lp->wanted_more);
    pthread_mutex_unlock(&lp->lock);
    pthread_join(lp->thread, NULL);
    pthread_cond_destroy(&lp->wanted_more);
    pthread_cond_destroy(&lp->answered);
    pthread_mutex_destroy(&lp->lock);
    free(lp->answers);
    free(lp);
}
