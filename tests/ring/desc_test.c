/* The instance ring's document: real values of a Mimir (shared/mimir/rings), the rules of docs/formats.md 4.2, the laws of merging. */
#include <criterion/criterion.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "ring/desc.h"

#define RINGS TEST_SHARED_DIR "/mimir/rings/"

static char *read_file(const char *path, size_t *ret_n)
{
    FILE *f = fopen(path, "rb");
    cr_assert(f, "%s", path);
    char *p = malloc(1 << 20);
    *ret_n = fread(p, 1, 1 << 20, f);
    fclose(f);
    return p;
}

static int64_t json_int(const json_t *o, const char *key)
{
    return json_integer_value(json_object_get(o, key));
}

static const char *json_str(const json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "";
}

static void check_instance(const json_t *want, const struct ring_instance *got, const char *id)
{
    cr_assert(got, "%s", id);
    cr_assert_str_eq(got->addr, json_str(want, "addr"));
    cr_assert_str_eq(got->name, json_str(want, "id"));
    cr_assert_str_eq(got->zone, json_str(want, "zone"));
    cr_assert_str_eq(ring_state_name(got->state), json_str(want, "state"));
    cr_assert_eq(got->timestamp_s, json_int(want, "timestamp"));
    cr_assert_eq(got->registered_s, json_int(want, "registered_timestamp"));
    const json_t *tokens = json_object_get(want, "tokens");
    cr_assert_eq(got->n_tokens, json_array_size(tokens), "%s", id);
    for (size_t i = 0; i < got->n_tokens; i++)
        cr_assert_eq(got->tokens[i], (uint32_t)json_integer_value(json_array_get(tokens, i)));
}

/* The bytes, decoded, equal what index.json says of them, and written again they are the same document. */
static void check_value(const char *dir, const json_t *row)
{
    char path[512];
    snprintf(path, sizeof(path), RINGS "%s/%s.snappy.bin", dir, json_str(row, "file"));
    size_t n;
    char *bytes = read_file(path, &n);
    struct err err = ERR_NONE;
    struct ring_desc *d = ring_desc_codec.decode(slice_make(bytes, n), &err);
    cr_assert(d, "%s: %s", path, err.text);
    const json_t *value = json_object_get(row, "value");
    cr_assert_eq(d->n, json_object_size(value));
    const char *id;
    json_t *want;
    json_object_foreach ((json_t *)value, id, want)
        check_instance(want, ring_desc_find(d, slice_of(id)), id);
    struct buf out = {0};
    ring_desc_encode(d, &out);
    snprintf(path, sizeof(path), RINGS "%s/%s.proto.bin", dir, json_str(row, "file"));
    size_t n_proto;
    char *proto = read_file(path, &n_proto);
    cr_assert_eq(out.n, n_proto, "%s: %zu bytes, not %zu", path, out.n, n_proto);
    if (d->n < 2)
        cr_assert(memcmp(out.p, proto, n_proto) == 0);
    struct ring_desc *again = ring_desc_decode(buf_slice(&out), NULL);
    cr_assert(ring_desc_eq(d, again));
    ring_desc_free(again);
    buf_release(&out);
    ring_desc_free(d);
    free(bytes);
    free(proto);
}

Test(ring_desc, decodes_and_writes_the_values_of_a_real_mimir)
{
    static const char *const dirs[] = {"kv-1-all-active", "kv-2-b-read-only", "kv-3-b-left", "kv-4-c-left"};
    int n = 0;
    for (size_t i = 0; i < 4; i++) {
        char path[512];
        snprintf(path, sizeof(path), RINGS "%s/index.json", dirs[i]);
        json_t *rows = json_load_file(path, 0, NULL);
        cr_assert(rows);
        size_t at;
        json_t *row;
        json_array_foreach (rows, at, row) {
            if (strcmp(json_str(row, "codec"), "ringDesc") == 0) {
                check_value(dirs[i], row);
                n++;
            }
        }
        json_decref(rows);
    }
    cr_assert_geq(n, 30);
}

Test(ring_desc, takes_no_bytes_for_an_empty_document)
{
    struct ring_desc *d = ring_desc_codec.decode(SL(""), NULL);
    cr_assert(d && d->n == 0);
    cr_assert(ring_desc_codec.is_empty(d));
    ring_desc_free(d);
}

Test(ring_desc, refuses_damaged_bytes)
{
    static const struct slice cases[] = {
        SL("\x0a\x05\x0a\x01"),                 /* longer than there is */
        SL("\x0a\x04\x0a\x02" "a\0"),           /* a NUL in the id */
        SL("\x0a\x06\x12\x04\x32\x02\x80\x80"), /* tokens end within a number */
        SL("\x08\x01\x0a"),
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct err err = ERR_NONE;
        cr_assert_null(ring_desc_decode(cases[i], &err), "case %zu", i);
        cr_assert_eq(err.code, ERR_CORRUPT);
    }
    struct err err = ERR_NONE;
    cr_assert_null(ring_desc_codec.decode(SL("\xff\xff\xff\x0fxxxx"), &err));
    cr_assert_eq(err.code, ERR_CORRUPT);
}

Test(ring_desc, keeps_the_last_of_equal_keys_and_sorts_tokens)
{
    /* "a" with addr x, then "a" with addr y and the tokens 3, 1, 3: packed twice and once alone. */
    struct ring_desc *d = ring_desc_decode(SL("\x0a\x08\x0a\x01"
                                              "a\x12\x03\x0a\x01x"
                                              "\x0a\x0f\x0a\x01"
                                              "a\x12\x0a\x0a\x01y\x32\x02\x03\x01\x30\x03\x28"),
                                           NULL);
    cr_assert_null(d, "the last tag lacks its value");
    d = ring_desc_decode(SL("\x0a\x08\x0a\x01"
                            "a\x12\x03\x0a\x01x"
                            "\x0a\x0e\x0a\x01"
                            "a\x12\x09\x0a\x01y\x32\x02\x03\x01\x30\x03"),
                         NULL);
    cr_assert(d && d->n == 1);
    cr_assert_str_eq(d->instances[0].addr, "y");
    cr_assert_eq(d->instances[0].n_tokens, 2);
    cr_assert_eq(d->instances[0].tokens[0], 1);
    ring_desc_free(d);
}

/* --- merging --- */

static void put(struct ring_desc *d, const char *id, int64_t time_s, enum ring_state state, uint32_t first, uint32_t n)
{
    struct ring_instance *in = ring_desc_add(d, slice_of(id));
    in->timestamp_s = time_s;
    in->state = (int32_t)state;
    uint32_t tokens[16];
    for (uint32_t i = 0; i < n; i++)
        tokens[i] = first + i;
    ring_instance_set_tokens(in, tokens, n);
}

Test(ring_merge, takes_the_newer_and_left_at_the_same_second)
{
    static const struct {
        int64_t local_s;
        enum ring_state local;
        int64_t in_s;
        enum ring_state in;
        bool taken;
    } cases[] = {
        {10, RING_ACTIVE, 11, RING_LEAVING, true},  {10, RING_ACTIVE, 9, RING_LEAVING, false},
        {10, RING_ACTIVE, 10, RING_LEAVING, false}, {10, RING_ACTIVE, 10, RING_LEFT, true},
        {10, RING_LEFT, 10, RING_ACTIVE, false},    {10, RING_LEFT, 11, RING_ACTIVE, true},
        {10, RING_LEFT, 10, RING_LEFT, false},      {10, RING_ACTIVE, 9, RING_LEFT, false},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct ring_desc *local = ring_desc_new(), *in = ring_desc_new();
        put(local, "a", cases[i].local_s, cases[i].local, 1, cases[i].local == RING_LEFT ? 0 : 2);
        put(in, "a", cases[i].in_s, cases[i].in, 7, 3);
        struct ring_desc *change = ring_desc_merge(local, in, false, 99);
        cr_assert_eq(change != NULL, cases[i].taken, "case %zu", i);
        const struct ring_instance *got = ring_desc_find(local, SL("a"));
        cr_assert_eq(got->state, (int)(cases[i].taken ? cases[i].in : cases[i].local), "case %zu", i);
        if (cases[i].taken)
            cr_assert_eq(got->n_tokens, cases[i].in == RING_LEFT ? 0 : 3, "case %zu", i);
        ring_desc_free(change);
        ring_desc_free(local);
        ring_desc_free(in);
    }
}

Test(ring_merge, buries_what_a_local_cas_lacks)
{
    struct ring_desc *local = ring_desc_new();
    put(local, "a", 10, RING_ACTIVE, 1, 2);
    put(local, "b", 10, RING_ACTIVE, 5, 2);
    put(local, "c", 10, RING_LEFT, 0, 0);
    struct ring_desc *wanted = ring_desc_new();
    put(wanted, "a", 10, RING_ACTIVE, 1, 2);
    cr_assert_null(ring_desc_merge(local, wanted, false, 50));
    struct ring_desc *change = ring_desc_merge(local, wanted, true, 50);
    cr_assert_eq(change->n, 1);
    cr_assert_str_eq(change->instances[0].id, "b");
    const struct ring_instance *b = ring_desc_find(local, SL("b"));
    cr_assert(b->state == RING_LEFT && b->timestamp_s == 50 && b->n_tokens == 0);
    cr_assert_eq(ring_desc_find(local, SL("c"))->timestamp_s, 10);
    ring_desc_free(change);
    ring_desc_free(wanted);
    ring_desc_free(local);
}

Test(ring_merge, gives_a_token_to_one_claimant)
{
    static const struct {
        enum ring_state a, b;
        bool a_keeps;
    } cases[] = {{RING_ACTIVE, RING_ACTIVE, true},
                 {RING_LEAVING, RING_ACTIVE, false},
                 {RING_ACTIVE, RING_LEAVING, true},
                 {RING_LEAVING, RING_LEAVING, true},
                 {RING_JOINING, RING_ACTIVE, true}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct ring_desc *local = ring_desc_new(), *in = ring_desc_new();
        put(local, "a", 10, cases[i].a, 1, 3);
        put(in, "b", 10, cases[i].b, 3, 3);
        struct ring_desc *change = ring_desc_merge(local, in, false, 50);
        cr_assert_eq(change->n, 1, "only what was updated is told");
        cr_assert_eq(change->instances[0].n_tokens, cases[i].a_keeps ? 2 : 3, "case %zu", i);
        cr_assert_eq(ring_desc_find(local, SL("a"))->n_tokens, cases[i].a_keeps ? 3 : 2, "case %zu", i);
        ring_desc_free(change);
        ring_desc_free(local);
        ring_desc_free(in);
    }
}

Test(ring_merge, removes_old_tombstones_only)
{
    struct ring_desc *d = ring_desc_new();
    put(d, "a", 10, RING_LEFT, 0, 0);
    put(d, "b", 20, RING_LEFT, 0, 0);
    put(d, "c", 5, RING_ACTIVE, 1, 1);
    size_t removed, left;
    ring_desc_remove_tombstones(d, 20, &removed, &left);
    cr_assert(removed == 1 && left == 1 && d->n == 2);
    ring_desc_remove_tombstones(d, INT64_MAX, &removed, &left);
    cr_assert(removed == 1 && left == 0 && d->n == 1);
    ring_desc_free(d);
}

/*
 * A random state: what one instance writes at one time is a function of both, as it is in life, so that equal times mean equal
 * content but for LEFT.
 */
static struct ring_desc *random_state(unsigned *seed)
{
    static const char *const ids[] = {"a", "b", "c", "d"};
    struct ring_desc *d = ring_desc_new();
    for (uint32_t i = 0; i < 4; i++) {
        if (rand_r(seed) % 3 == 0)
            continue;
        uint32_t t = (uint32_t)rand_r(seed) % 4 + 1;
        bool left = rand_r(seed) % 5 == 0;
        put(d, ids[i], t, left ? RING_LEFT : t % 2 ? RING_ACTIVE : RING_LEAVING, 100 * i + t, left ? 0 : 5);
    }
    return d;
}

static struct ring_desc *merged(const struct ring_desc *a, const struct ring_desc *b)
{
    struct ring_desc *c = ring_desc_clone(a);
    ring_desc_free(ring_desc_merge(c, b, false, 0));
    return c;
}

static void check_laws(const struct ring_desc *a, const struct ring_desc *b, const struct ring_desc *c)
{
    struct ring_desc *ab = merged(a, b), *ba = merged(b, a), *bc = merged(b, c);
    cr_assert(ring_desc_eq(ab, ba), "commutative");
    struct ring_desc *ab_c = merged(ab, c), *a_bc = merged(a, bc);
    cr_assert(ring_desc_eq(ab_c, a_bc), "associative");
    struct ring_desc *twice = merged(ab, b);
    cr_assert(ring_desc_eq(twice, ab), "idempotent");
    /* To tell the change is as good as to tell everything. */
    struct ring_desc *copy = ring_desc_clone(a), *change = ring_desc_merge(copy, b, false, 0);
    struct ring_desc *told = change ? merged(a, change) : ring_desc_clone(a);
    cr_assert(ring_desc_eq(told, ab), "the change is all there is to tell");
    struct ring_desc *all[] = {ab, ba, bc, ab_c, a_bc, twice, copy, change, told};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        ring_desc_free(all[i]);
}

Test(ring_merge, is_commutative_associative_and_idempotent)
{
    unsigned seed = 1;
    for (int i = 0; i < 20000; i++) {
        struct ring_desc *a = random_state(&seed), *b = random_state(&seed), *c = random_state(&seed);
        check_laws(a, b, c);
        ring_desc_free(a);
        ring_desc_free(b);
        ring_desc_free(c);
    }
}

/* --- the rest --- */

Test(ring_state, changes_only_as_drawn)
{
    static const char *const rows[RING_STATES] = {
        /*          A L P J X */
        [RING_ACTIVE] = "yy---", [RING_LEAVING] = "yy--y", [RING_PENDING] = "y-yy-", [RING_JOINING] = "yyyy-", [RING_LEFT] = "----y"};
    for (int from = 0; from < RING_STATES; from++)
        for (int to = 0; to < RING_STATES; to++)
            cr_assert_eq(ring_state_may_change(from, to), rows[from][to] == 'y', "%s to %s", ring_state_name(from),
                         ring_state_name(to));
    cr_assert_not(ring_state_may_change(-1, 0));
    cr_assert_not(ring_state_may_change(7, 7));
}

Test(ring_instance, is_alive_until_its_timeout_and_forgotten_later)
{
    struct ring_desc *d = ring_desc_new();
    put(d, "a", 100, RING_ACTIVE, 1, 1);
    const struct ring_instance *a = &d->instances[0];
    cr_assert(ring_instance_alive(a, 60000, 160000));
    cr_assert_not(ring_instance_alive(a, 60000, 160001));
    cr_assert(ring_instance_alive(a, 0, INT64_MAX));
    cr_assert(ring_instance_alive(a, 60000, 0), "a clock that is ahead of ours");
    cr_assert_eq(ring_desc_forget(d, 60000, 160000), 0);
    d->instances[0].timestamp_s = INT64_MIN;
    cr_assert_eq(ring_desc_forget(d, 60000, 160000), 1);
    ring_desc_free(d);
}

static uint32_t next_number(void *arg)
{
    return (*(uint32_t *)arg)++ / 2;
}

Test(ring_tokens, are_new)
{
    struct ring_desc *d = ring_desc_new();
    put(d, "a", 1, RING_ACTIVE, 1, 3);
    uint32_t from = 0, tokens[3];
    ring_desc_new_tokens(d, next_number, &from, 3, tokens);
    cr_assert(tokens[0] == 0 && tokens[1] == 4 && tokens[2] == 5);
    ring_desc_free(d);
}
