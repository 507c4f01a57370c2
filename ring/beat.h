/*
 * A thread that does the same thing again and again, until it is told to stop: the heart of the lifecyclers. Private to the rings.
 *
 * start and stop are for the one who owns it; the function runs on the thread, without locks.
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

typedef void beat_fn(void *arg);

struct beat {
    beat_fn *fn; /* immutable, like the next two */
    void *arg;
    int64_t period_ms;
    pthread_t thread;
    bool started; /* the owner's */
    pthread_mutex_t lock; /* guards stopping; innermost */
    pthread_cond_t wake;
    bool stopping;
};

void beat_init(struct beat *b, int64_t period_ms, beat_fn *fn, void *arg);
/* Stopped or never started. */
void beat_release(struct beat *b);
/* The first beat comes at once or after a period. */
void beat_start(struct beat *b, bool at_once);
/* When it returns the thread has ended. Fine when it was never started. */
void beat_stop(struct beat *b);
