/*
 * The ingester is given what a live Mimir was given (the request of 43-Push), is asked what that Mimir was asked, with
 * the same metadata, and must answer with the same bytes (shared/mimir/grpc: README.md there says how they were taken).
 */
#include <jansson.h>

#include "tests/ingest/service/service_rig.h"

#define CAPTURES TEST_SHARED_DIR "/mimir/grpc/"
#define QUERY_TIME_MS 1795238787000

static struct service_rig *rig;

static struct slice read_capture(const char *name)
{
    char path[512];
    snprintf(path, sizeof(path), CAPTURES "%s", name);
    FILE *f = fopen(path, "rb");
    cr_assert(f, "%s", path);
    char *bytes = arena_alloc(&rig->arena, 1 << 16);
    size_t n = fread(bytes, 1, 1 << 16, f);
    fclose(f);
    return slice_make(bytes, n);
}

static void start(void)
{
    clock_fake_wall_ms(QUERY_TIME_MS);
    rig = service_rig_new();
    rig->w->cfg.wait_strong_read_consistency_timeout = 300;
    rig->w->limit_values.max_global_exemplars_per_user = 1000;
    service_rig_start(rig);
    service_rig_produce(rig, "tenant-a", read_capture("43-Push-push-refused.request0.bin"), QUERY_TIME_MS - 2000);
}

static void stop(void)
{
    service_rig_free(rig);
}

TestSuite(ingest_service_real, .init = start, .fini = stop, .timeout = 120);

static int code_of_name(const char *name)
{
    char upper[RPC_CODE_NAME_MAX];
    for (int code = 0; code <= 16; code++) {
        /* "StatusCode.DEADLINE_EXCEEDED" and "DeadlineExceeded" */
        const char *camel = rpc_code_name(code, upper), *p = strchr(name, '.') + 1;
        while (*camel && *p) {
            if (*p == '_')
                p++;
            if ((*camel | 0x20) != (*p | 0x20))
                break;
            camel++;
            p++;
        }
        if (!*camel && !*p)
            return code;
    }
    return -1;
}

static size_t metadata_of(json_t *call, struct rpc_kv *ret, size_t max)
{
    size_t i;
    json_t *pair;
    json_t *list = json_object_get(call, "metadata");
    json_array_foreach(list, i, pair)
    {
        cr_assert(i < max);
        ret[i].name = slice_of(json_string_value(json_array_get(pair, 0)));
        ret[i].value = slice_of(json_string_value(json_array_get(pair, 1)));
        if (slice_eq(ret[i].name, SL("user-agent")))
            ret[i].name = SL("x-user-agent");
    }
    return json_array_size(list);
}

/* Clusters are checked by the server, not by this service; rates depend on the moment; Mimir's maps have no order. */
static const char *const passed_over[] = {
    "21-LabelNamesAndValues-cardinality", "23-LabelValuesCardinality-cardinality",
    "40-UserStats-user-stats-in-memory",  "41-UserStats-user-stats-active",
    "42-AllUserStats-all-user-stats",     "50-UserStats-unary-without-x-cluster",
    "51-UserStats-unary-wrong-x-cluster",
};

static bool is_passed_over(json_t *call)
{
    const char *name = json_string_value(json_object_get(call, "name"));
    if (strncmp(json_string_value(json_object_get(call, "method")), "/cortex.Ingester/", 17) != 0 ||
        strstr(name, "classic-push"))
        return true;
    for (size_t i = 0; i < ARRAY_LEN(passed_over); i++)
        if (strcmp(name, passed_over[i]) == 0)
            return true;
    return false;
}

static void check_call(json_t *call)
{
    const char *name = json_string_value(json_object_get(call, "name"));
    struct rpc_kv metadata[16];
    size_t n_metadata = metadata_of(call, metadata, ARRAY_LEN(metadata));
    json_t *request = json_array_get(json_object_get(call, "requests"), 0);
    json_t *responses = json_object_get(call, "responses");
    struct slice bytes = read_capture(json_string_value(json_object_get(request, "file")));
    struct service_answer a =
        service_rig_call(rig, json_string_value(json_object_get(call, "method")), bytes, metadata, n_metadata);
    cr_expect_eq(a.code, code_of_name(json_string_value(json_object_get(call, "status"))), "%s: %d %s", name, a.code,
                 a.text);
    json_t *error = json_object_get(call, "error");
    if (json_is_array(error))
        cr_expect_str_eq(a.text, json_string_value(json_array_get(error, 1)), "%s", name);
    cr_expect_eq(a.n, json_array_size(responses), "%s: %zu messages", name, a.n);
    for (size_t i = 0; i < a.n && i < json_array_size(responses); i++) {
        const char *file = json_string_value(json_object_get(json_array_get(responses, i), "file"));
        cr_expect(slice_eq(a.messages[i], read_capture(file)), "%s: %zu bytes", file, a.messages[i].n);
    }
}

Test(ingest_service_real, answers_are_those_of_mimir_byte_for_byte)
{
    json_error_t error;
    json_t *index = json_load_file(CAPTURES "index.json", JSON_DECODE_INT_AS_REAL, &error);
    cr_assert(index, "%s", error.text);
    size_t i, n = 0;
    json_t *call;
    json_array_foreach(index, i, call)
    {
        if (is_passed_over(call))
            continue;
        check_call(call);
        n++;
    }
    json_decref(index);
    cr_expect(n > 30, "%zu calls", n);
}

static const struct rpc_kv tenant_a[] = {{{"x-scope-orgid", 13}, {"tenant-a", 8}}};

Test(ingest_service_real, label_names_and_values_are_those_of_mimir)
{
    const struct label_name_values *mine, *mimirs;
    size_t n, n_mimirs;
    struct err err;
    struct service_answer a = service_rig_call(rig, INGESTER_LABEL_NAMES_AND_VALUES, SL(""), tenant_a, 1);
    cr_assert_eq(a.n, 1);
    cr_assert(label_names_and_values_decode(a.messages[0], &rig->arena, &mine, &n, &err));
    cr_assert(label_names_and_values_decode(read_capture("21-LabelNamesAndValues-cardinality.response0.bin"),
                                            &rig->arena, &mimirs, &n_mimirs, &err));
    cr_assert_eq(n, n_mimirs);
    for (size_t i = 0; i < n; i++) {
        cr_expect(slice_eq(mine[i].name, mimirs[i].name));
        cr_expect_eq(mine[i].n, mimirs[i].n);
    }
}

Test(ingest_service_real, cardinality_of_values_is_that_of_mimir)
{
    const struct label_cardinality *mine;
    size_t n;
    struct err err;
    struct service_answer a =
        service_rig_call(rig, INGESTER_LABEL_VALUES_CARDINALITY,
                         read_capture("23-LabelValuesCardinality-cardinality.request0.bin"), tenant_a, 1);
    cr_assert_eq(a.n, 1);
    cr_assert(label_values_cardinality_decode(a.messages[0], &rig->arena, &mine, &n, &err));
    cr_assert_eq(n, 1);
    cr_assert_eq(mine[0].n, 3);
    for (size_t i = 0; i < 3; i++) {
        cr_expect_eq(mine[0].values[i].series, 1);
        cr_expect_eq(mine[0].values[i].value.p[0], (char)('0' + i));
    }
}

Test(ingest_service_real, all_tenants_have_their_statistics)
{
    const struct tenant_stats *stats;
    size_t n;
    struct err err;
    struct service_answer a = service_rig_call(rig, INGESTER_ALL_USER_STATS, SL(""), tenant_a, 1);
    cr_assert_eq(a.n, 1);
    cr_assert(users_stats_decode(a.messages[0], &rig->arena, &stats, &n, &err));
    cr_assert_eq(n, 1);
    cr_expect(slice_eq(stats[0].tenant, SL("tenant-a")));
    cr_expect_eq(stats[0].stats.num_series, 305);
}

Test(ingest_service_real, native_histograms_that_are_active_come_with_buckets)
{
    struct buf request = {0};
    struct cardinality_request r = {.native_histograms = true};
    struct active_series_response res;
    struct err err;
    active_series_request_put(&r, &request);
    struct service_answer a = service_rig_call(rig, INGESTER_ACTIVE_SERIES, buf_slice(&request), tenant_a, 1);
    buf_release(&request);
    cr_assert_eq(a.n, 1);
    cr_assert(active_series_decode(a.messages[0], &rig->arena, &res, &err));
    cr_assert_eq(res.n_metrics, 2);
    cr_assert_eq(res.n_bucket_counts, 2);
    cr_expect(res.bucket_counts[0] > 0 && res.bucket_counts[1] > 0);
}

Test(ingest_service_real, a_refused_push_says_why_to_programs)
{
    struct service_answer a = service_rig_call(rig, INGESTER_PUSH, SL(""), tenant_a, 1);
    struct buf details = {0};
    error_details_put(RPC_UNIMPLEMENTED, slice_of(a.text), ERROR_CAUSE_METHOD_NOT_ALLOWED, &details);
    cr_expect_eq(a.code, RPC_UNIMPLEMENTED);
    cr_expect(slice_eq(a.details, buf_slice(&details)));
    buf_release(&details);
}
