/* Broadcasts that wait for being told often enough. */
#include <stdlib.h>

#include "base/assert.h"
#include "ring/memberlist/core_int.h"

static void broadcast_free(struct broadcast *b)
{
    if (!b)
        return;
    free(b->name);
    free(b->bytes);
    buf_release(&b->content);
    free(b);
}

struct broadcast *broadcast_new(struct slice name, struct slice bytes)
{
    struct broadcast *b = must(calloc(1, sizeof *b));
    b->name = slice_strdup(name);
    b->bytes = slice_strdup(bytes);
    b->n = bytes.n;
    return b;
}

static bool has_name(const struct buf *names, const char *name, size_t n)
{
    for (size_t at = 0; at < names->n; at += strlen(names->p + at) + 1)
        if (strlen(names->p + at) == n && memcmp(names->p + at, name, n) == 0)
            return true;
    return false;
}

/* Whether b says all that old said. */
static bool replaces(const struct broadcast *b, const struct broadcast *old)
{
    if (strcmp(b->name, old->name) != 0 || b->version < old->version)
        return false;
    for (size_t at = 0; at < old->content.n; at += strlen(old->content.p + at) + 1)
        if (!has_name(&b->content, old->content.p + at, strlen(old->content.p + at)))
            return false;
    return true;
}

static void drop(struct queue *q, size_t i)
{
    q->bytes -= q->items[i]->n;
    broadcast_free(q->items[i]);
    q->items[i] = q->items[--q->n];
}

bool queue_add(struct queue *q, struct broadcast *b)
{
    for (size_t i = q->n; i-- > 0;)
        if (replaces(b, q->items[i]))
            drop(q, i);
    if (q->n >= q->max_items || b->n > q->max_bytes - q->bytes) {
        broadcast_free(b);
        return false;
    }
    if (q->n == q->cap) {
        q->cap = q->cap ? 2 * q->cap : 16;
        q->items = must(realloc(q->items, q->cap * sizeof *q->items));
    }
    b->id = ++q->next_id;
    q->bytes += b->n;
    q->items[q->n++] = b;
    return true;
}

/* The least told first, then the newest. */
static int by_need(const void *x, const void *y)
{
    const struct broadcast *a = *(struct broadcast *const *)x, *b = *(struct broadcast *const *)y;
    if (a->transmits != b->transmits)
        return a->transmits < b->transmits ? -1 : 1;
    return (a->id < b->id) - (a->id > b->id);
}

size_t queue_take(struct queue *q, int transmit_limit, size_t *budget, struct slice *ret, size_t max)
{
    for (size_t i = q->n; i-- > 0;)
        if (q->items[i]->transmits >= transmit_limit)
            drop(q, i);
    if (q->n > 1)
        qsort(q->items, q->n, sizeof *q->items, by_need);
    size_t n = 0;
    for (size_t i = 0; i < q->n && n < max; i++) {
        struct broadcast *b = q->items[i];
        if (b->n + 2 > *budget)
            continue;
        *budget -= b->n + 2;
        b->transmits++;
        ret[n++] = (struct slice){b->bytes, b->n};
    }
    return n;
}

bool queue_has(const struct queue *q, struct slice name, int transmit_limit)
{
    for (size_t i = 0; i < q->n; i++)
        if (q->items[i]->transmits < transmit_limit && slice_eq(slice_of(q->items[i]->name), name))
            return true;
    return false;
}

size_t queue_pending(const struct queue *q, int transmit_limit)
{
    size_t n = 0;
    for (size_t i = 0; i < q->n; i++)
        n += q->items[i]->transmits < transmit_limit;
    return n;
}

void queue_release(struct queue *q)
{
    while (q->n)
        drop(q, q->n - 1);
    free(q->items);
    q->items = NULL;
    q->cap = 0;
}
