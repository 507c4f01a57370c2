/* The service and its twin in this process: who is served, how fresh, and what is sent. */
#include "log/read_consistency.h"
#include "tests/ingest/service/service_rig.h"

static struct service_rig *rig;

static void start(void)
{
    rig = service_rig_new();
    rig->w->cfg.wait_strong_read_consistency_timeout = 300;
}

static void stop(void)
{
    service_rig_free(rig);
}

TestSuite(ingest_service, .init = start, .fini = stop, .timeout = 120);

#define KV(name_, value_)                                                                                              \
    {                                                                                                                  \
        {name_, sizeof(name_) - 1},                                                                                    \
        {                                                                                                              \
            value_, sizeof(value_) - 1                                                                                 \
        }                                                                                                              \
    }

static const struct rpc_kv tenant_t[] = {KV("x-scope-orgid", "t")};

static struct slice query(uint64_t batch)
{
    static struct buf request;
    struct matcher_set none = {0};
    struct ingester_request r = {
        .start_ms = T0 - HOUR_MS, .end_ms = T0 + 100 * HOUR_MS, .sets = &none, .n_sets = 1, .chunks_batch = batch};
    buf_release(&request);
    query_request_put(&r, &request);
    struct slice bytes = arena_dup(&rig->arena, buf_slice(&request));
    buf_release(&request);
    return bytes;
}

static struct service_answer stream(uint64_t batch)
{
    return service_rig_call(rig, INGESTER_QUERY_STREAM, query(batch), tenant_t, 1);
}

static struct query_stream_response decoded(struct slice message)
{
    struct query_stream_response r;
    struct err err = ERR_NONE;
    cr_assert(query_stream_response_decode(message, &rig->arena, &r, &err), "%s", err.text);
    return r;
}

static void consume(void)
{
    int64_t first, next;
    struct err err;
    struct ctx ctx = {.arena = &rig->arena};
    cr_assert(plog_offsets(rig->w->log, 0, &first, &next, &err) && ingester_wait(rig->w->ing, next, &ctx, &err));
}

/* --- who is served --- */

Test(ingest_service, before_it_has_caught_up_nobody_is_served)
{
    struct err err;
    char dir[128];
    world_open_log(rig->w);
    snprintf(dir, sizeof(dir), "%s/ingester", rig->w->dir);
    rig->w->ing = ingester_new(&rig->w->cfg, &rig->w->limits, rig->w->log, 0, dir, "ingester-0", RIG_SEED, &err);
    cr_assert(rig->w->ing);
    service_rig_serve(rig);
    struct service_answer a = stream(0);
    cr_expect_eq(a.code, RPC_UNAVAILABLE);
    cr_expect_str_eq(a.text, "ingester is unavailable (current state: Starting)");
    struct buf details = {0};
    error_details_put(RPC_UNAVAILABLE, slice_of(a.text), ERROR_CAUSE_SERVICE_UNAVAILABLE, &details);
    cr_expect(slice_eq(a.details, buf_slice(&details)));
    buf_release(&details);
    struct ctx ctx = {.tenant = SL("t"), .arena = &rig->arena};
    struct select_params p = {.max_t = INT64_MAX / 4};
    struct queryable *q = ingest_service_queryable(rig->service);
    cr_expect_null(q->ops->select(q, &ctx, &p, &err));
    cr_expect_eq(err.code, ERR_UNAVAILABLE);
}

Test(ingest_service, after_it_was_stopped_nobody_is_served)
{
    service_rig_start(rig);
    ingester_stop(rig->w->ing);
    struct service_answer a = stream(0);
    cr_expect_eq(a.code, RPC_UNAVAILABLE);
}

Test(ingest_service, tenants_are_named_by_metadata)
{
    static const struct {
        struct rpc_kv kv;
        int code;
        const char *text;
    } cases[] = {
        {KV("x-other", "t"), RPC_UNKNOWN, "no org id"},
        {KV("x-scope-orgid", ""), RPC_UNKNOWN, "no org id"},
        {KV("x-scope-orgid", "a|b"), RPC_INTERNAL, NULL},
        {KV("x-scope-orgid", "a/b"), RPC_INTERNAL, "tenant ID 'a/b' contains unsupported character '/'"},
        {KV("x-scope-orgid", "a|a"), RPC_OK, ""},
    };
    service_rig_start(rig);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct service_answer a = service_rig_call(rig, INGESTER_LABEL_NAMES, SL(""), &cases[i].kv, 1);
        cr_expect_eq(a.code, cases[i].code, "%zu: %d %s", i, a.code, a.text);
        if (cases[i].text)
            cr_expect_str_eq(a.text, cases[i].text);
    }
}

Test(ingest_service, bytes_that_are_no_request_are_told_from_a_bad_one)
{
    static const char *const methods[] = {
        INGESTER_QUERY_STREAM,
        INGESTER_LABEL_NAMES,
        INGESTER_LABEL_VALUES,
        INGESTER_METRICS_FOR_MATCHERS,
        INGESTER_METRICS_METADATA,
        INGESTER_QUERY_EXEMPLARS,
        INGESTER_USER_STATS,
        INGESTER_ALL_USER_STATS,
        INGESTER_LABEL_NAMES_AND_VALUES,
        INGESTER_LABEL_VALUES_CARDINALITY,
        INGESTER_ACTIVE_SERIES,
    };
    service_rig_start(rig);
    for (size_t i = 0; i < ARRAY_LEN(methods); i++) {
        struct service_answer a = service_rig_call(rig, methods[i], SL("\x1a\x7f"), tenant_t, 1);
        cr_expect_eq(a.code, RPC_INTERNAL, "%s", methods[i]);
        cr_expect_str_eq(a.text, "grpc: error unmarshalling request: unexpected EOF");
    }
}

Test(ingest_service, a_query_shard_that_is_none_is_refused)
{
    static const char *const values[] = {"0_of_2", "3_of_2", "1_of_", "1_of_2x", "a", "", "1_of_99999999999999999999"};
    service_rig_start(rig);
    for (size_t i = 0; i < ARRAY_LEN(values); i++) {
        struct matcher_spec spec = {MATCH_EQ, SL("__query_shard__"), slice_of(values[i])};
        struct matcher_set set = {&spec, 1};
        struct ingester_request r = {.sets = &set, .n_sets = 1};
        struct buf request = {0};
        query_request_put(&r, &request);
        struct service_answer a = service_rig_call(rig, INGESTER_QUERY_STREAM, buf_slice(&request), tenant_t, 1);
        cr_expect_eq(a.code, RPC_INTERNAL, "%s", values[i]);
        buf_release(&request);
    }
}

/* --- how fresh --- */

static struct ctx_tag tag(const char *name, const char *value)
{
    return (struct ctx_tag){slice_of(name), slice_of(value)};
}

static bool select_with(const struct ctx_tag *tags, size_t n, struct err *err)
{
    struct queryable *q = ingest_service_queryable(rig->service);
    struct ctx ctx = {.tenant = SL("t"), .arena = &rig->arena, .tags = tags, .n_tags = n};
    struct select_params p = {.max_t = INT64_MAX / 4};
    struct series_set *set = q->ops->select(q, &ctx, &p, err);
    series_set_release(set);
    return set != NULL;
}

Test(ingest_service, a_strong_read_without_an_offset_sees_what_was_produced_before_it)
{
    service_rig_start(rig);
    struct ctx_tag tags[] = {tag(READ_LEVEL_TAG, "strong")};
    struct queryable *q = ingest_service_queryable(rig->service);
    for (int i = 0; i < 20; i++) {
        char text[32];
        const struct slice *names;
        size_t n;
        struct err err;
        snprintf(text, sizeof(text), "up,label%02d=x", i);
        world_push(rig->w, "t", text, T0, 1);
        struct ctx ctx = {.tenant = SL("t"), .arena = &rig->arena, .tags = tags, .n_tags = 1};
        struct select_params p = {.max_t = INT64_MAX / 4};
        cr_assert(q->ops->label_names(q, &ctx, &p, &names, &n, &err), "%s", err.text);
        cr_expect_eq(n, (size_t)i + 2, "%d: %zu", i, n);
    }
}

Test(ingest_service, a_strong_read_in_this_process_that_waits_too_long_is_an_internal_error)
{
    service_rig_start(rig);
    struct err err;
    struct ctx_tag tags[] = {tag(READ_LEVEL_TAG, "strong"), tag(READ_OFFSETS_TAG, "v1=0:41")};
    cr_expect_not(select_with(tags, 2, &err));
    cr_expect_eq(err.code, ERR_INTERNAL);
    cr_expect_str_eq(
        err.text,
        "wait for read consistency: wait strong read consistency timeout exceeded: context deadline exceeded");
}

Test(ingest_service, offsets_of_other_partitions_and_an_empty_partition_need_no_wait)
{
    service_rig_start(rig);
    struct err err;
    struct ctx_tag other[] = {tag(READ_LEVEL_TAG, "strong"), tag(READ_OFFSETS_TAG, "v1=5:41")};
    struct ctx_tag empty[] = {tag(READ_LEVEL_TAG, "strong"), tag(READ_OFFSETS_TAG, "v1=0:-1")};
    cr_expect(select_with(other, 2, &err));
    cr_expect(select_with(empty, 2, &err));
}

Test(ingest_service, without_the_logs_offsets_a_strong_read_needs_its_own)
{
    service_rig_start(rig);
    struct ingest_service *own = ingest_service_new(&rig->w->cfg, rig->w->ing, 0, NULL);
    struct ingest_service *of_rig = rig->service;
    struct err err;
    struct ctx_tag tags[] = {tag(READ_LEVEL_TAG, "strong"), tag(READ_OFFSETS_TAG, "v1=0:-1")};
    rig->service = own;
    cr_expect(select_with(tags, 2, &err));
    cr_expect_not(select_with(tags, 1, &err));
    cr_expect_eq(err.code, ERR_UNAVAILABLE);
    rig->service = of_rig;
    ingest_service_free(own);
}

Test(ingest_service, an_ingester_that_is_caught_up_is_never_too_far_behind)
{
    service_rig_start(rig);
    world_push(rig->w, "t", "up", T0, 1);
    consume();
    usleep(400000); /* so that the next fetch has found nothing */
    struct err err = ERR_NONE;
    struct ctx_tag tags[] = {tag(READ_LEVEL_TAG, "eventual"), tag(READ_MAX_DELAY_TAG, "30s")};
    cr_expect(select_with(tags, 2, &err), "%s", err.text);
}

Test(ingest_service, an_ingester_further_behind_than_a_read_allows_refuses_it)
{
    service_rig_start(rig);
    struct err err = ERR_NONE;
    struct ctx_tag tags[] = {tag(READ_LEVEL_TAG, "eventual"), tag(READ_MAX_DELAY_TAG, "30s")};
    bool refused = false;
    /* What the consumer has noted is made an hour old; its next fetch may correct that before the read looks. */
    for (int i = 0; i < 1000 && !refused; i++) {
        atomic_store(&rig->w->ing->newest_ms, clock_wall_ms() - HOUR_MS);
        atomic_store(&rig->w->ing->complete_ms, clock_mono_ms() - HOUR_MS);
        refused = !select_with(tags, 2, &err);
    }
    cr_assert(refused);
    cr_expect_eq(err.code, ERR_UNAVAILABLE);
    cr_expect(strstr(err.text, "more than the 30000 ms that the read allows"), "%s", err.text);
}

Test(ingest_service, an_owner_that_lags_says_so_when_others_are_preferred)
{
    service_rig_start(rig);
    struct err err = ERR_NONE;
    struct ctx_tag tags[] = {tag(READ_PREFER_DELAY_TAG, "30s")};
    struct rpc_kv metadata[] = {{SL("x-scope-orgid"), SL("t")}, {SL(READ_PREFER_DELAY_TAG), SL("30s")}};
    struct service_answer answer = {0};
    bool refused = false;
    int64_t behind_ms = 0;
    for (int i = 0; i < 1000 && !(refused && answer.code); i++) {
        atomic_store(&rig->w->ing->newest_ms, clock_wall_ms() - HOUR_MS);
        atomic_store(&rig->w->ing->complete_ms, clock_mono_ms() - HOUR_MS);
        refused = refused || !select_with(tags, 1, &err);
        answer = service_rig_call(rig, INGESTER_LABEL_NAMES, SL(""), metadata, 2);
    }
    cr_assert(refused && answer.code);
    cr_expect_eq(err.code, ERR_LAGGING, "%s", err.text);
    cr_expect(read_lag_parse(slice_of(err.text), &behind_ms) && behind_ms >= HOUR_MS, "%s", err.text);
    cr_expect_eq(answer.code, RPC_FAILED_PRECONDITION, "%s", answer.text);
    cr_expect(read_lag_parse(slice_of(answer.text), &behind_ms) && behind_ms >= HOUR_MS, "%s", answer.text);
    usleep(400000);
    cr_expect(select_with(tags, 1, &err), "%s", err.text);
}

/* --- what is sent --- */

static void push_series(int n, int samples)
{
    char text[64];
    for (int k = 0; k < samples; k++)
        for (int i = 0; i < n; i++) {
            snprintf(text, sizeof(text), "up,i=%03d", i);
            world_push(rig->w, "t", text, T0 + k * 1000, i);
        }
    consume();
}

Test(ingest_service, series_come_128_a_message_and_chunks_as_many_as_asked_for)
{
    service_rig_start(rig);
    push_series(300, 2);
    struct service_answer a = stream(100);
    cr_assert_eq(a.code, RPC_OK, "%s", a.text);
    cr_assert_eq(a.n, 6);
    static const size_t series[] = {128, 128, 44, 0, 0, 0}, chunks[] = {0, 0, 0, 100, 100, 100};
    uint64_t index = 0;
    for (size_t i = 0; i < a.n; i++) {
        struct query_stream_response r = decoded(a.messages[i]);
        cr_expect_eq(r.n_series, series[i]);
        cr_expect_eq(r.n_chunks, chunks[i]);
        cr_expect_eq(r.end_of_series, i == 2);
        for (size_t k = 0; k < r.n_chunks; k++)
            cr_expect_eq(r.chunks[k].series_index, index++);
    }
}

Test(ingest_service, a_batch_larger_than_the_ingesters_own_is_one_message)
{
    service_rig_start(rig);
    push_series(300, 1);
    struct service_answer a = stream(1000);
    cr_assert_eq(a.n, 4);
    cr_expect_eq(decoded(a.messages[3]).n_chunks, 300);
}

Test(ingest_service, a_client_may_go_after_the_series)
{
    service_rig_start(rig);
    push_series(200, 1);
    for (int i = 0; i < 20; i++) {
        struct rpc_args args = {
            .method = INGESTER_QUERY_STREAM, .request = query(1), .metadata = tenant_t, .n_metadata = 1};
        struct rpc_status status = RPC_STATUS_NONE;
        struct buf msg = {0};
        struct rpc_stream *st = rpc_stream_open(rig->client, &args);
        cr_assert_eq(rpc_stream_next(st, &msg, &status), RPC_NEXT_MESSAGE);
        buf_release(&msg);
        rpc_stream_close(st);
        rpc_status_release(&status);
    }
    cr_expect_eq(stream(0).code, RPC_OK);
}

Test(ingest_service, the_twin_answers_as_the_ingester_does)
{
    service_rig_start(rig);
    push_series(3, 1);
    struct queryable *q = ingest_service_queryable(rig->service);
    struct ctx ctx = {.tenant = SL("t"), .arena = &rig->arena};
    struct select_params p = {.max_t = INT64_MAX / 4};
    struct series series[10];
    const struct slice *texts;
    const struct metric_metadata *metadata;
    const struct exemplar_series *exemplars;
    size_t n;
    struct err err;
    struct series_set *set = q->ops->select(q, &ctx, &p, &err);
    cr_assert(set && series_set_next(set, &ctx, series, 10, &n, &err));
    cr_expect_eq(n, 3);
    series_set_release(set);
    cr_assert(q->ops->label_values(q, &ctx, SL("i"), &p, &texts, &n, &err));
    cr_expect_eq(n, 3);
    cr_assert(q->ops->label_names(q, &ctx, &p, &texts, &n, &err));
    cr_expect_eq(n, 2);
    cr_expect(q->ops->metadata(q, &ctx, &metadata, &n, &err));
    cr_expect(q->ops->exemplars(q, &ctx, &p, &exemplars, &n, &err));
}

Test(ingest_service, metadata_is_limited_by_families_and_by_metric)
{
    static const struct {
        int32_t limit, per_metric;
        const char *metric;
        size_t n;
    } cases[] = {{-1, -1, "", 3},  {1, -1, "", 2},   {1, 1, "", 1}, {-1, 1, "", 2},
                 {-1, -1, "b", 1}, {-1, -1, "c", 0}, {0, -1, "", 0}};
    static const struct write_metadata list[] = {
        {.type = 1, .family = {"a", 1}, .help = {"one", 3}},
        {.type = 2, .family = {"a", 1}, .help = {"two", 3}},
        {.type = 1, .family = {"b", 1}, .help = {"three", 5}},
    };
    service_rig_start(rig);
    for (size_t i = 0; i < ARRAY_LEN(list); i++) {
        rig->w->metadata = list[i];
        world_push(rig->w, "t", "up", T0 + (int64_t)i, 1);
    }
    consume();
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct metadata_request r = {cases[i].limit, cases[i].per_metric, slice_of(cases[i].metric)};
        struct buf request = {0};
        const struct metric_metadata *got;
        size_t n;
        struct err err;
        metadata_request_put(&r, &request);
        struct service_answer a = service_rig_call(rig, INGESTER_METRICS_METADATA, buf_slice(&request), tenant_t, 1);
        cr_assert_eq(a.n, 1, "%s", a.text);
        cr_assert(metadata_response_decode(a.messages[0], &rig->arena, &got, &n, &err));
        cr_expect_eq(n, cases[i].n, "%zu: %zu", i, n);
        buf_release(&request);
    }
}
