/* The instance ring's document in memory. */
#include "ring/desc.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "ring/desc_int.h"

const char *ring_state_name(int32_t state)
{
    static const char *const names[RING_STATES] = {"ACTIVE", "LEAVING", "PENDING", "JOINING", "LEFT"};
    return state >= 0 && state < RING_STATES ? names[state] : "UNKNOWN";
}

bool ring_state_may_change(int32_t from, int32_t to)
{
    static const uint8_t allowed[RING_STATES] = {
        [RING_PENDING] = 1 << RING_JOINING | 1 << RING_ACTIVE,
        [RING_JOINING] = 1 << RING_PENDING | 1 << RING_ACTIVE | 1 << RING_LEAVING,
        [RING_ACTIVE] = 1 << RING_LEAVING,
        [RING_LEAVING] = 1 << RING_LEFT | 1 << RING_ACTIVE,
    };
    if (from < 0 || from >= RING_STATES || to < 0 || to >= RING_STATES)
        return false;
    return from == to || (allowed[from] >> to & 1);
}

void *ring_memdup(const void *p, size_t n)
{
    if (!n)
        return NULL;
    void *copy = malloc(n);
    ASSERT(copy);
    memcpy(copy, p, n);
    return copy;
}

void ring_string_set(char **field, struct slice value)
{
    char *fresh = slice_strdup(value);
    free(*field);
    *field = fresh;
}

void ring_instance_init(struct ring_instance *in, struct slice id)
{
    *in = (struct ring_instance){
        .id = slice_strdup(id), .addr = slice_strdup(SL("")), .zone = slice_strdup(SL("")), .name = slice_strdup(id)};
}

void ring_instance_release(struct ring_instance *in)
{
    free(in->id);
    free(in->addr);
    free(in->zone);
    free(in->name);
    free(in->tokens);
    free(in->versions);
    *in = (struct ring_instance){0};
}

void ring_instance_copy(struct ring_instance *to, const struct ring_instance *from)
{
    struct ring_instance fresh = *from;
    fresh.id = slice_strdup(slice_of(from->id));
    fresh.addr = slice_strdup(slice_of(from->addr));
    fresh.zone = slice_strdup(slice_of(from->zone));
    fresh.name = slice_strdup(slice_of(from->name));
    fresh.tokens = ring_memdup(from->tokens, from->n_tokens * sizeof(*from->tokens));
    fresh.versions = ring_memdup(from->versions, from->n_versions * sizeof(*from->versions));
    ring_instance_release(to);
    *to = fresh;
}

struct ring_desc *ring_desc_new(void)
{
    struct ring_desc *d = calloc(1, sizeof(*d));
    ASSERT(d);
    return d;
}

struct ring_desc *ring_desc_clone(const struct ring_desc *d)
{
    struct ring_desc *c = ring_desc_new();
    ring_desc_reserve(c, d->n);
    for (size_t i = 0; i < d->n; i++) {
        c->instances[i] = (struct ring_instance){0};
        ring_instance_copy(&c->instances[i], &d->instances[i]);
    }
    c->n = d->n;
    return c;
}

void ring_desc_free(struct ring_desc *d)
{
    if (!d)
        return;
    for (size_t i = 0; i < d->n; i++)
        ring_instance_release(&d->instances[i]);
    free(d->instances);
    free(d);
}

void ring_desc_reserve(struct ring_desc *d, size_t n)
{
    if (n <= d->cap)
        return;
    size_t cap = MAX(n, d->cap + d->cap / 2 + 4);
    d->instances = realloc(d->instances, cap * sizeof(*d->instances));
    ASSERT(d->instances);
    d->cap = cap;
}

/* Where the id is or would be. */
static size_t position(const struct ring_desc *d, struct slice id, bool *ret_found)
{
    size_t low = 0, high = d->n;
    *ret_found = false;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        int c = slice_cmp(slice_of(d->instances[mid].id), id);
        if (c == 0) {
            *ret_found = true;
            return mid;
        }
        if (c < 0)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

struct ring_instance *ring_desc_find(const struct ring_desc *d, struct slice id)
{
    bool found;
    size_t i = position(d, id, &found);
    return found ? &d->instances[i] : NULL;
}

struct ring_instance *ring_desc_add(struct ring_desc *d, struct slice id)
{
    bool found;
    size_t i = position(d, id, &found);
    if (found)
        return &d->instances[i];
    ring_desc_reserve(d, d->n + 1);
    memmove(&d->instances[i + 1], &d->instances[i], (d->n - i) * sizeof(*d->instances));
    d->n++;
    ring_instance_init(&d->instances[i], id);
    return &d->instances[i];
}

void ring_desc_remove(struct ring_desc *d, struct ring_instance *in)
{
    ASSERT(in >= d->instances && in < d->instances + d->n);
    size_t i = (size_t)(in - d->instances);
    ring_instance_release(in);
    d->n--;
    memmove(in, in + 1, (d->n - i) * sizeof(*in));
}

int ring_compare_u32(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

size_t ring_tokens_normalize(uint32_t *tokens, size_t n)
{
    if (n < 2)
        return n;
    /* Nearly always they are in order: look before sorting. */
    size_t i = 1;
    while (i < n && tokens[i - 1] < tokens[i])
        i++;
    if (i == n)
        return n;
    qsort(tokens, n, sizeof(*tokens), ring_compare_u32);
    size_t kept = 1;
    for (i = 1; i < n; i++)
        if (tokens[i] != tokens[kept - 1])
            tokens[kept++] = tokens[i];
    return kept;
}

void ring_instance_set_tokens(struct ring_instance *in, const uint32_t *tokens, size_t n)
{
    uint32_t *fresh = ring_memdup(tokens, n * sizeof(*tokens));
    free(in->tokens);
    in->tokens = fresh;
    in->n_tokens = ring_tokens_normalize(fresh, n);
}

static bool bytes_eq(const void *a, size_t n_a, const void *b, size_t n_b, size_t size)
{
    return n_a == n_b && (n_a == 0 || memcmp(a, b, n_a * size) == 0);
}

bool ring_instance_eq(const struct ring_instance *a, const struct ring_instance *b)
{
    return strcmp(a->id, b->id) == 0 && strcmp(a->addr, b->addr) == 0 && strcmp(a->zone, b->zone) == 0 &&
           strcmp(a->name, b->name) == 0 && a->state == b->state && a->timestamp_s == b->timestamp_s &&
           a->registered_s == b->registered_s && a->read_only_updated_s == b->read_only_updated_s &&
           a->read_only == b->read_only && bytes_eq(a->tokens, a->n_tokens, b->tokens, b->n_tokens, sizeof(*a->tokens)) &&
           bytes_eq(a->versions, a->n_versions, b->versions, b->n_versions, sizeof(*a->versions));
}

bool ring_desc_eq(const struct ring_desc *a, const struct ring_desc *b)
{
    if (a->n != b->n)
        return false;
    for (size_t i = 0; i < a->n; i++)
        if (!ring_instance_eq(&a->instances[i], &b->instances[i]))
            return false;
    return true;
}

bool ring_time_within(int64_t time_s, int64_t age_ms, int64_t now_ms)
{
    /* The time is anybody's number: no product of it may overflow. */
    __int128 age = (__int128)now_ms - (__int128)time_s * 1000;
    return age <= age_ms;
}

bool ring_instance_alive(const struct ring_instance *in, int64_t timeout_ms, int64_t now_ms)
{
    return timeout_ms == 0 || ring_time_within(in->timestamp_s, timeout_ms, now_ms);
}

size_t ring_desc_forget(struct ring_desc *d, int64_t forget_after_ms, int64_t now_ms)
{
    ASSERT(forget_after_ms > 0);
    size_t n = 0;
    for (size_t i = d->n; i-- > 0;) {
        if (!ring_time_within(d->instances[i].timestamp_s, forget_after_ms, now_ms)) {
            ring_desc_remove(d, &d->instances[i]);
            n++;
        }
    }
    return n;
}

bool ring_desc_has_token(const struct ring_desc *d, uint32_t token)
{
    for (size_t i = 0; i < d->n; i++) {
        const struct ring_instance *in = &d->instances[i];
        if (in->n_tokens && bsearch(&token, in->tokens, in->n_tokens, sizeof(token), ring_compare_u32))
            return true;
    }
    return false;
}

static bool token_is_taken(const struct ring_desc *d, const uint32_t *mine, size_t n_mine, uint32_t token)
{
    for (size_t i = 0; i < n_mine; i++)
        if (mine[i] == token)
            return true;
    return ring_desc_has_token(d, token);
}

void ring_desc_new_tokens(const struct ring_desc *d, uint32_t (*random_u32)(void *arg), void *arg, size_t n, uint32_t *ret)
{
    ASSERT(n <= RING_TOKENS_MAX);
    for (size_t i = 0; i < n;) {
        uint32_t token = random_u32(arg);
        if (!token_is_taken(d, ret, i, token))
            ret[i++] = token;
    }
    qsort(ret, n, sizeof(*ret), ring_compare_u32);
}
