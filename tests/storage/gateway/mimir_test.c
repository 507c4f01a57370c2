/*
 * A real Mimir's bucket served by us, and asked what its own store-gateway was asked (shared/mimir/grpc): the answers must be the same messages. What may differ: the order of the blocks that
 * are named, and how many bytes of indexes were read.
 */
#include <criterion/criterion.h>
#include <jansson.h>

#define CLAIM(cond, ...) cr_assert(cond, __VA_ARGS__)
#include "tests/storage/gateway/gateway_rig.h"
#include "tests/storage/gateway/rpc_rig.h"

#define CAPTURES TEST_SHARED_DIR "/mimir/grpc/"

static struct gw_rig rig;
static struct rpc_rig rpc;

/* A copy: shared files are not to be touched. */
static void setup(void)
{
    gw_new(&rig);
    gw_shell("cp -r %s/mimir/blocks/compacted/. %s/ && chmod -R u+w %s", TEST_SHARED_DIR, rig.bucket_dir, rig.bucket_dir);
    rig.cfg.ignore_deletion_marks_delay = INT64_C(1) << 40; /* its were fresh, and did not count yet */
    rpc_rig_new(&rpc, gw_start(&rig, 0));
}

static void teardown(void)
{
    rpc_rig_free(&rpc);
    gw_free(&rig);
}

static struct slice capture(const char *name)
{
    char path[512];
    snprintf(path, sizeof(path), CAPTURES "%s", name);
    FILE *f = fopen(path, "rb");
    cr_assert(f, "%s", path);
    char *bytes = arena_alloc(&rig.arena, 1 << 16);
    size_t n = fread(bytes, 1, 1 << 16, f);
    fclose(f);
    return slice_make(bytes, n);
}

static int compare_ulids(const void *a, const void *b)
{
    return strcmp(((const struct ulid *)a)->text, ((const struct ulid *)b)->text);
}

static char *list_of(const struct block_hints *h)
{
    struct ulid *sorted = ARENA_ARRAY(&rig.arena, struct ulid, h->n + 1);
    char *text = arena_printf(&rig.arena, "%s", "");
    if (h->n)
        memcpy(sorted, h->blocks, h->n * sizeof(*sorted));
    qsort(sorted, h->n, sizeof(*sorted), compare_ulids);
    for (size_t i = 0; i < h->n; i++)
        text = arena_printf(&rig.arena, "%s%s ", text, sorted[i].text);
    return text;
}

static void expect_same_part(const char *name, size_t i, struct slice got, struct slice want)
{
    struct storegateway_series_response a, b;
    struct err err = ERR_NONE;
    cr_assert(storegateway_series_response_decode(got, &rig.arena, &a, &err), "%s %zu: %s", name, i, err.text);
    cr_assert(storegateway_series_response_decode(want, &rig.arena, &b, NULL));
    cr_assert_eq(a.part, b.part, "%s: message %zu is a %d, not a %d", name, i, (int)a.part, (int)b.part);
    if (a.part == STOREGATEWAY_HINTS)
        cr_expect_str_eq(list_of(&a.queried), list_of(&b.queried), "%s", name);
    else if (a.part != STOREGATEWAY_STATS)
        cr_expect(slice_eq(got, want), "%s: message %zu (%zu bytes, not %zu)", name, i, got.n, want.n);
}

static void expect_series(const char *name, const struct rpc_answer *got, json_t *responses)
{
    cr_expect_eq(got->n, json_array_size(responses), "%s: %zu messages", name, got->n);
    for (size_t i = 0; i < got->n && i < json_array_size(responses); i++)
        expect_same_part(name, i, got->messages[i], capture(json_string_value(json_object_get(json_array_get(responses, i), "file"))));
}

static void expect_strings(const char *name, const struct rpc_answer *got, json_t *responses)
{
    struct storegateway_strings a, b;
    struct err err = ERR_NONE;
    cr_assert(got->n == 1 && json_array_size(responses) == 1, "%s", name);
    cr_assert(storegateway_strings_decode(got->messages[0], &rig.arena, &a, &err), "%s: %s", name, err.text);
    cr_assert(storegateway_strings_decode(capture(json_string_value(json_object_get(json_array_get(responses, 0), "file"))), &rig.arena, &b, NULL));
    cr_expect_eq(a.n, b.n, "%s: %zu strings, not %zu", name, a.n, b.n);
    for (size_t i = 0; i < a.n && i < b.n; i++)
        cr_expect(slice_eq(a.strings[i], b.strings[i]), "%s: %.*s, not %.*s", name, SL_FMT(a.strings[i]), SL_FMT(b.strings[i]));
    cr_expect_str_eq(list_of(&a.queried), list_of(&b.queried), "%s", name);
    cr_expect_eq(got->messages[0].n, capture(json_string_value(json_object_get(json_array_get(responses, 0), "file"))).n, "%s", name);
}

static const char *metadata_of(json_t *call, const char *key)
{
    size_t i;
    json_t *pair;
    json_array_foreach(json_object_get(call, "metadata"), i, pair)
    {
        if (strcmp(json_string_value(json_array_get(pair, 0)), key) == 0)
            return arena_printf(&rig.arena, "%s", json_string_value(json_array_get(pair, 1)));
    }
    return NULL;
}

static void replay(json_t *call)
{
    const char *name = json_string_value(json_object_get(call, "name"));
    const char *method = json_string_value(json_object_get(call, "method"));
    json_t *responses = json_object_get(call, "responses"), *error = json_object_get(call, "error");
    struct slice request = capture(json_string_value(json_object_get(json_array_get(json_object_get(call, "requests"), 0), "file")));
    struct rpc_answer got;
    rpc_rig_ask(&rpc, arena_printf(&rig.arena, "%s", method), request, metadata_of(call, "x-scope-orgid"), metadata_of(call, "__org_id__"), &rig.arena, &got);
    if (json_is_array(error)) {
        cr_expect_eq(got.code, RPC_UNKNOWN, "%s: %d", name, got.code);
        cr_expect_str_eq(got.text, json_string_value(json_array_get(error, 1)), "%s", name);
        return;
    }
    cr_assert_eq(got.code, RPC_OK, "%s: %s", name, got.text);
    if (strcmp(method, STOREGATEWAY_SERIES) == 0)
        expect_series(name, &got, responses);
    else
        expect_strings(name, &got, responses);
}

Test(gateway_service, answers_as_mimirs_does, .init = setup, .fini = teardown)
{
    json_error_t error;
    json_t *index = json_load_file(CAPTURES "index.json", JSON_DECODE_INT_AS_REAL, &error);
    cr_assert(index, "%s", error.text);
    size_t i, n = 0;
    json_t *call;
    json_array_foreach(index, i, call)
    {
        if (strncmp(json_string_value(json_object_get(call, "method")), "/gatewaypb.StoreGateway/", 24) != 0)
            continue;
        replay(call);
        n++;
    }
    cr_expect(n >= 16, "%zu calls", n);
    json_decref(index);
}
