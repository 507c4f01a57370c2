/* The smallest document that merges: names with a time each, the later time wins; a time may mark a tombstone. For
 * tests. */
#pragma once

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ring/kv.h"

#define SET_MAX 128

struct set {
    int n;
    struct {
        char name[24];
        long time;
        bool left;
    } items[SET_MAX];
};

static inline int set_find(const struct set *s, const char *name)
{
    for (int i = 0; i < s->n; i++)
        if (strcmp(s->items[i].name, name) == 0)
            return i;
    return -1;
}

static inline bool set_put(struct set *s, const char *name, long time, bool left)
{
    int i = set_find(s, name);
    if (i >= 0 && s->items[i].time >= time)
        return false;
    if (i < 0 && s->n == SET_MAX)
        return false;
    i = i < 0 ? s->n++ : i;
    snprintf(s->items[i].name, sizeof s->items[i].name, "%s", name);
    s->items[i].time = time;
    s->items[i].left = left;
    return true;
}

static inline void *set_decode(struct slice bytes, struct err *err)
{
    struct set *s = calloc(1, sizeof *s);
    char text[16384], *save = NULL;
    snprintf(text, sizeof text, "%.*s", SL_FMT(bytes));
    for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        char name[24];
        long time;
        int left;
        if (sscanf(line, "%23s %ld %d", name, &time, &left) != 3) {
            free(s);
            err_set(err, ERR_CORRUPT, "no set");
            return NULL;
        }
        set_put(s, name, time, left);
    }
    return s;
}

static inline void set_encode(const void *value, struct buf *out)
{
    const struct set *s = value;
    for (int i = 0; i < s->n; i++)
        buf_printf(out, "%s %ld %d\n", s->items[i].name, s->items[i].time, s->items[i].left);
}

static inline void *set_clone(const void *value)
{
    struct set *s = malloc(sizeof *s);
    memcpy(s, value, sizeof *s);
    return s;
}

static inline void *set_merge(void *local, const void *incoming, bool local_cas, int64_t now_s)
{
    const struct set *in = incoming;
    struct set *mine = local, *change = calloc(1, sizeof *change);
    for (int i = 0; i < in->n; i++)
        if (set_put(mine, in->items[i].name, in->items[i].time, in->items[i].left))
            set_put(change, in->items[i].name, in->items[i].time, in->items[i].left);
    for (int i = 0; local_cas && i < mine->n; i++) {
        if (mine->items[i].left || set_find(in, mine->items[i].name) >= 0)
            continue;
        mine->items[i].left = true;
        mine->items[i].time = now_s;
        set_put(change, mine->items[i].name, now_s, true);
    }
    if (change->n)
        return change;
    free(change);
    return NULL;
}

static inline void set_remove_tombstones(void *value, int64_t limit_s, size_t *ret_removed, size_t *ret_left)
{
    struct set *s = value;
    size_t removed = 0, left = 0;
    for (int i = s->n - 1; i >= 0; i--) {
        if (s->items[i].left && s->items[i].time < limit_s) {
            s->items[i] = s->items[--s->n];
            removed++;
        } else {
            left += s->items[i].left;
        }
    }
    if (ret_removed)
        *ret_removed = removed;
    if (ret_left)
        *ret_left = left;
}

static inline void set_content(const void *value, kv_name_fn *fn, void *arg)
{
    const struct set *s = value;
    for (int i = 0; i < s->n; i++)
        fn(arg, slice_of(s->items[i].name));
}

static inline bool set_is_empty(const void *value)
{
    return ((const struct set *)value)->n == 0;
}

static const struct kv_codec set_codec = {
    .id = "testSet",
    .decode = set_decode,
    .encode = set_encode,
    .clone = set_clone,
    .free = free,
    .merge = set_merge,
    .remove_tombstones = set_remove_tombstones,
    .content = set_content,
    .is_empty = set_is_empty,
};
