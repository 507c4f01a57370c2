/* What the tests of the log share: a folder of their own, a small configuration, a produce that waits. */
#pragma once

#include <ftw.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/logger.h"
#include "log/embedded_int.h"
#include "log/plog.h"

#define MIB ((uint64_t)1 << 20)

static inline struct plog_config small_config(void)
{
    return (struct plog_config){
        .producer_max_buffered_bytes = 64 * MIB,
        .embedded_partitions = 1,
        .embedded_segment_bytes = MIB,
        .embedded_max_hint_bytes = MIB,
        .embedded_retention_period = 0,
    };
}

static inline char *temp_dir(void)
{
    /* In memory where there is such a folder: syncing a disk takes most of the time, and shows nothing. */
    char *dir = strdup("/dev/shm/brunn-plog-XXXXXX");
    if (!dir || (!mkdtemp(dir) && !mkdtemp(strcpy(dir, "/tmp/brunn-plog-XXXXXX"))))
        abort();
    return dir;
}

static inline int remove_visit(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    (void)st, (void)flag, (void)ftw;
    return remove(path);
}

static inline void remove_dir(char *dir)
{
    nftw(dir, remove_visit, 16, FTW_DEPTH | FTW_PHYS);
    free(dir);
}

/* A produce that is waited for. */
struct waiter {
    struct plog_produce p;
    pthread_mutex_t lock;
    pthread_cond_t done;
    bool finished;
    bool ok;
    struct err err;
};

static inline void waiter_done(struct plog_produce *p, const struct err *err)
{
    struct waiter *w = (struct waiter *)p;
    pthread_mutex_lock(&w->lock);
    w->finished = true;
    w->ok = !err;
    if (err)
        w->err = *err;
    pthread_cond_signal(&w->done);
    pthread_mutex_unlock(&w->lock);
}

static inline bool produce_wait(struct plog *log, struct plog_record *records, size_t n, struct err *err)
{
    struct waiter w = {.p = {.records = records, .n = n, .done = waiter_done}};
    pthread_mutex_init(&w.lock, NULL);
    pthread_cond_init(&w.done, NULL);
    bool ok = plog_produce(log, &w.p, err);
    if (ok) {
        pthread_mutex_lock(&w.lock);
        while (!w.finished)
            pthread_cond_wait(&w.done, &w.lock);
        pthread_mutex_unlock(&w.lock);
        ok = w.ok;
        if (!ok && err)
            *err = w.err;
    }
    pthread_mutex_destroy(&w.lock);
    pthread_cond_destroy(&w.done);
    return ok;
}

/* Contents that tell where they belong: checked on reading. */
static inline void fill_value(char *dst, size_t n, int32_t partition, uint64_t seq)
{
    uint64_t x = seq * 0x9E3779B97F4A7C15u + (uint64_t)partition * 0xD1B54A32D192ED03u + 1;
    for (size_t i = 0; i < n; i++) {
        if (i % 8 == 0)
            x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        dst[i] = (char)(x >> (i % 8 * 8));
    }
}

static inline bool produce_filled(struct plog *log, int32_t partition, uint64_t seq, size_t n, int64_t *ret_offset,
                                  struct err *err)
{
    char *value = malloc(n + 1);
    fill_value(value, n, partition, seq);
    struct plog_record r = {
        .partition = partition, .timestamp_ms = 1000 + (int64_t)seq, .tenant = SL("t1"), .value = {value, n}};
    bool ok = produce_wait(log, &r, 1, err);
    free(value);
    if (ok && ret_offset)
        *ret_offset = r.offset;
    return ok;
}

static inline bool value_is(struct slice v, int32_t partition, uint64_t seq)
{
    char *want = malloc(v.n + 1);
    fill_value(want, v.n, partition, seq);
    bool same = memcmp(want, v.p, v.n) == 0;
    free(want);
    return same;
}

/* Paths of the segment files, oldest first; returns how many. */
static inline size_t list_segments(const char *dir, char paths[][512], size_t max)
{
    size_t n = 0;
    for (unsigned id = 0; id < 100000 && n < max; id++) {
        snprintf(paths[n], 512, "%s/%020u.seg", dir, id);
        if (access(paths[n], F_OK) == 0)
            n++;
    }
    return n;
}
