/*
 * An owner exists while it has jobs that wait or run, or has used some CPU of late. While it has waiting jobs and may run one more it is in one of two
 * rings of turns, that of the workers in front or that of those behind. A worker takes the first job of the owner at its ring's head and moves that owner to the
 * ring's end.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/fair_pool_int.h"

#define REMEMBERED_MS 5 /* less CPU than that is not remembered */

static struct owner **bucket_of(struct fair_pool *p, struct slice name)
{
    uint32_t h = 2166136261u;
    for (size_t i = 0; i < name.n; i++)
        h = (h ^ (uint8_t)name.p[i]) * 16777619u;
    return &p->owners[h % OWNER_BUCKETS];
}

struct owner *fair_pool_owner(struct fair_pool *p, struct slice name)
{
    struct owner **bucket = bucket_of(p, name);
    for (struct owner *o = *bucket; o; o = o->next)
        if (slice_eq(slice_make(o->name, o->name_n), name))
            return o;
    struct owner *o = calloc(1, sizeof(*o) + name.n);
    ASSERT(o);
    o->name_n = name.n;
    if (name.n)
        memcpy(o->name, name.p, name.n);
    o->next = *bucket;
    p->n_owners++;
    return *bucket = o;
}

static void leave_turn(struct fair_pool *p, struct owner *o)
{
    if (!o->in_turn)
        return;
    o->in_turn = false;
    if (o->turn_next == o) {
        p->turn[o->place] = NULL;
        return;
    }
    o->turn_prev->turn_next = o->turn_next;
    o->turn_next->turn_prev = o->turn_prev;
    if (p->turn[o->place] == o)
        p->turn[o->place] = o->turn_next;
}

static void join_turn(struct fair_pool *p, struct owner *o, enum place place)
{
    struct owner **head = &p->turn[place];
    if (o->in_turn)
        return;
    o->in_turn = true;
    o->place = place;
    if (!*head)
        *head = o->turn_next = o->turn_prev = o;
    o->turn_next = *head;
    o->turn_prev = (*head)->turn_prev;
    o->turn_prev->turn_next = o->turn_next->turn_prev = o;
}

static double used_by(const struct owner *o, int64_t now_ms)
{
    return o->used_ms > 0 ? o->used_ms * exp((double)(o->used_at_ms - now_ms) / FAIR_POOL_MEMORY_MS) : 0;
}

void fair_pool_used(struct owner *o, double cpu_ms, int64_t now_ms)
{
    o->used_ms = used_by(o, now_ms) + cpu_ms;
    o->used_at_ms = now_ms;
}

void fair_pool_owner_free(struct fair_pool *p, struct owner *o)
{
    struct owner **at = bucket_of(p, slice_make(o->name, o->name_n));
    while (*at != o)
        at = &(*at)->next;
    *at = o->next;
    p->n_owners--;
    free(o);
}

void fair_pool_settle(struct fair_pool *p, struct owner *o, int64_t now_ms)
{
    bool wants = o->first && o->running < p->n_threads;
    enum place place = used_by(o, now_ms) > FAIR_POOL_MUCH_MS ? BEHIND : IN_FRONT;
    if (!wants || o->place != place)
        leave_turn(p, o);
    if (wants)
        join_turn(p, o, place);
    if (!o->first && !o->running && used_by(o, now_ms) < REMEMBERED_MS)
        fair_pool_owner_free(p, o);
}

void fair_pool_enqueue(struct fair_pool *p, struct owner *o, pool_fn *fn, void *job)
{
    struct waiting *w = p->free_jobs;
    p->free_jobs = w->next;
    *w = (struct waiting){.fn = fn, .job = job};
    if (o->last)
        o->last->next = w;
    else
        o->first = w;
    o->last = w;
    o->queued++;
    p->queued++;
}

struct waiting fair_pool_take(struct fair_pool *p, enum place place, int64_t now_ms, struct owner **ret_owner)
{
    struct owner *o = p->turn[place];
    struct waiting *w = o->first, job = *w;
    if (!(o->first = w->next))
        o->last = NULL;
    w->next = p->free_jobs;
    p->free_jobs = w;
    p->queued--;
    o->queued--;
    o->running++;
    p->turn[place] = o->turn_next;
    fair_pool_settle(p, o, now_ms);
    *ret_owner = o;
    return job;
}
