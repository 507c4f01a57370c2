/* Label names and values of a head: each once and in order, however many shards have them. */
#include <criterion/criterion.h>

#include "base/ctx.h"
#include "head_rig.h"

#define VALUES 700
#define METRICS 40

static void push_all(struct rig *r)
{
    for (int m = 0; m < METRICS; m++) {
        for (int i = 0; i < VALUES; i++) {
            char text[64];
            snprintf(text, sizeof(text), "m%d,p=pod-%d", m, (i * 37) % VALUES);
            rig_push(r, text, T0, 1);
        }
    }
}

static size_t ask_values(struct rig *r, const char *name, size_t limit, struct arena *a, const struct slice **ret)
{
    struct ctx ctx = {.arena = a};
    struct select_params p = {.min_t = T0, .max_t = T0 + 1, .limit = limit};
    struct err err = ERR_NONE;
    size_t n = 0;
    cr_assert(head_label_values(r->head, &ctx, slice_of(name), &p, ret, &n, &err), "%s", err.text);
    return n;
}

static int by_bytes(const void *a, const void *b)
{
    return slice_cmp(*(const struct slice *)a, *(const struct slice *)b);
}

Test(label_query, values_of_many_shards_come_once_and_sorted)
{
    struct rig *r = rig_new(16);
    struct arena a;
    const struct slice *values;
    arena_init(&a, 0);
    push_all(r);
    size_t n = ask_values(r, "p", 0, &a, &values);
    cr_assert_eq(n, VALUES);
    for (size_t i = 1; i < n; i++)
        cr_assert_lt(by_bytes(&values[i - 1], &values[i]), 0);
    cr_assert(slice_eq(values[0], SL("pod-0")));
    cr_assert(slice_eq(values[1], SL("pod-1")));
    cr_assert(slice_eq(values[2], SL("pod-10")));
    arena_release(&a);
    rig_free(r);
}

Test(label_query, a_limit_keeps_the_first_in_order)
{
    struct rig *r = rig_new(16);
    struct arena a;
    const struct slice *values;
    arena_init(&a, 0);
    push_all(r);
    cr_assert_eq(ask_values(r, "__name__", 3, &a, &values), 3);
    cr_assert(slice_eq(values[0], SL("m0")));
    cr_assert(slice_eq(values[1], SL("m1")));
    cr_assert(slice_eq(values[2], SL("m10")));
    cr_assert_eq(ask_values(r, "nope", 3, &a, &values), 0);
    arena_release(&a);
    rig_free(r);
}

Test(label_query, texts_that_begin_alike_and_bytes_above_127_are_in_byte_order)
{
    static const char *const order[] = {"a", "a\tb", "abcdefgh", "abcdefgh\x01", "abcdefghi", "abcdefgi", "b", "\xc3\xa4", "\xf0\x9f\x98\x80"};
    struct rig *r = rig_new(4);
    struct arena a;
    const struct slice *values;
    arena_init(&a, 0);
    for (size_t i = ARRAY_LEN(order); i-- > 0;) {
        char text[64];
        snprintf(text, sizeof(text), "m,p=%s", order[i]);
        rig_push(r, text, T0, 1);
    }
    cr_assert_eq(ask_values(r, "p", 0, &a, &values), ARRAY_LEN(order));
    for (size_t i = 0; i < ARRAY_LEN(order); i++)
        cr_assert(slice_eq(values[i], slice_of(order[i])), "%zu: %.*s", i, SL_FMT(values[i]));
    arena_release(&a);
    rig_free(r);
}
