#include "tests/read/api/api_rig.h"

static struct api_rig rig;

static void setup(void)
{
    api_rig_new(&rig);
}

static void teardown(void)
{
    api_rig_stop(&rig);
}

TestSuite(query_api, .init = setup, .fini = teardown);

#define VECTOR(result) "{\"status\":\"success\",\"data\":{\"resultType\":\"vector\",\"result\":[" result "]}}\n"
#define MATRIX(result) "{\"status\":\"success\",\"data\":{\"resultType\":\"matrix\",\"result\":[" result "]}}\n"

Test(query_api, answers_as_prometheus_does)
{
    api_rig_start(&rig);
    static const struct api_case cases[] = {
        {"query?query=sum(q_m)&time=600", 200, VECTOR("{\"metric\":{},\"value\":[600,\"840\"]}")},
        {"query?query=sum(q_m)&time=373.5", 200, VECTOR("{\"metric\":{},\"value\":[373.500,\"504\"]}")},
        {"query?query=sum(q_m)&time=373.05", 200, VECTOR("{\"metric\":{},\"value\":[373.050,\"504\"]}")},
        {"query?query=sum(q_m)&time=1970-01-01T00:10:00Z", 200, VECTOR("{\"metric\":{},\"value\":[600,\"840\"]}")},
        {"query?query=sum(q_m)&time=1970-01-01T01:10:00.25%2B01:00", 200, VECTOR("{\"metric\":{},\"value\":[600.250,\"840\"]}")},
        {"query?query=q_m%7Bi=%221%22%7D&time=15", 200, VECTOR("{\"metric\":{\"__name__\":\"q_m\",\"g\":\"1\",\"i\":\"1\"},\"value\":[15,\"2\"]}")},
        {"query?query=q_m%7Bi=%221%22%7D%5B31s%5D&time=30", 200,
         MATRIX("{\"metric\":{\"__name__\":\"q_m\",\"g\":\"1\",\"i\":\"1\"},\"values\":[[0,\"0\"],[15,\"2\"],[30,\"4\"]]}")},
        {"query?query=nope&time=600", 200, VECTOR("")},
        {"query?query=1.5&time=1.5", 200, "{\"status\":\"success\",\"data\":{\"resultType\":\"scalar\",\"result\":[1.5,\"1.5\"]}}\n"},
        {"query?query=1e21&time=1", 200,
         "{\"status\":\"success\",\"data\":{\"resultType\":\"scalar\",\"result\":[1,\"1000000000000000000000\"]}}\n"},
        {"query?query=vector(1e21)&time=1", 200, VECTOR("{\"metric\":{},\"value\":[1,\"1e+21\"]}")},
        {"query?query=vector(0.0000001)&time=1", 200, VECTOR("{\"metric\":{},\"value\":[1,\"1e-07\"]}")},
        {"query?query=vector(-0)&time=1", 200, VECTOR("{\"metric\":{},\"value\":[1,\"-0\"]}")},
        {"query?query=vector(NaN)&time=1", 200, VECTOR("{\"metric\":{},\"value\":[1,\"NaN\"]}")},
        {"query?query=-vector(Inf)&time=1", 200, VECTOR("{\"metric\":{},\"value\":[1,\"-Inf\"]}")},
        {"query?query=%22a%3Cb%3E%26%22&time=1", 200, "{\"status\":\"success\",\"data\":{\"resultType\":\"string\",\"result\":[1,\"a<b>&\"]}}\n"},
        {"query_range?query=sum(q_m)&start=0&end=30&step=15", 200, MATRIX("{\"metric\":{},\"values\":[[0,\"0\"],[15,\"21\"],[30,\"42\"]]}")},
        {"query_range?query=sum(q_m)by(g)&start=15.5&end=30.5&step=15s", 200,
         MATRIX("{\"metric\":{\"g\":\"0\"},\"values\":[[15.500,\"9\"],[30.500,\"18\"]]},{\"metric\":{\"g\":\"1\"},\"values\":[[15.500,\"12\"],[30.500,"
                "\"24\"]]}")},
        {"query_range?query=2&start=0&end=60&step=1m", 200, MATRIX("{\"metric\":{},\"values\":[[0,\"2\"],[60,\"2\"]]}")},
        {"query_range?query=sum(q_m%5Bx%5D)&start=0&end=30&step=15", 400,
         BAD("invalid parameter \\\"query\\\": 1:9: parse error: unexpected character in duration expression: 'x'")},
        {"query_range?query=count(q_m%7Bg=~%220|1%22%7D)&start=0&end=0&step=1", 200, MATRIX("{\"metric\":{},\"values\":[[0,\"6\"]]}")},
        {"query_range?query=1&start=0&end=11000&step=1", 200, ""},
    };
    API_CHECK(&rig, cases);
    cr_assert_gt(atomic_load(&rig.barriers), 10);
}

Test(query_api, bad_parameters_are_named)
{
    api_rig_start(&rig);
    static const struct api_case cases[] = {
        {"query", 400, BAD("invalid parameter \\\"query\\\": unknown position: parse error: no expression found in input")},
        {"query?query=q_m%7B", 400, BAD("invalid parameter \\\"query\\\": 1:5: parse error: unexpected end of input inside braces")},
        {"query?query=rate(q_m)", 400,
         BAD("invalid parameter \\\"query\\\": 1:6: parse error: expected type range vector in call to function \\\"rate\\\", got instant vector")},
        {"query?query=sort_by_label(q_m,%22a%22)", 400,
         BAD("invalid parameter \\\"query\\\": experimental function \\\"sort_by_label\\\" is not enabled for tenant")},
        {"query?query=limitk(1,q_m)", 400, BAD("invalid parameter \\\"query\\\": experimental aggregation \\\"limitk\\\" is not enabled for tenant")},
        {"query?query=rate(q_m%5B5m%5D%20smoothed)", 400,
         BAD("invalid parameter \\\"query\\\": experimental extended range selector modifier \\\"smoothed\\\" is not enabled for tenant")},
        {"query?query=1&time=foo", 400, BAD("invalid parameter \\\"time\\\": invalid time value for 'time': cannot parse \\\"foo\\\" to a valid timestamp")},
        {"query?query=1&time=2020-02-30T00:00:00Z", 400, ""},
        {"query?query=1&timeout=foo", 400, BAD("invalid parameter \\\"timeout\\\": cannot parse \\\"foo\\\" to a valid duration")},
        {"query?query=1&limit=x", 400, BAD("invalid parameter \\\"limit\\\": strconv.Atoi: parsing \\\"x\\\": invalid syntax")},
        {"query?query=1&limit=-1", 400, BAD("invalid parameter \\\"limit\\\": limit must be non-negative")},
        {"query?query=1&lookback_delta=foo", 400, BAD("invalid parameter \\\"lookback_delta\\\": cannot parse \\\"foo\\\" to a valid duration")},
        {"query?query=1&lookback_delta=-5", 400, BAD("invalid parameter \\\"lookback_delta\\\": must be greater than 0, got -5")},
        {"query_range?query=1&end=1&step=1", 400, BAD("missing required parameter \\\"start\\\"")},
        {"query_range?query=1&start=1&step=1", 400, BAD("missing required parameter \\\"end\\\"")},
        {"query_range?query=1&start=1&end=1", 400, BAD("missing required parameter \\\"step\\\"")},
        {"query_range?query=1&start=foo&end=1&step=1", 400, BAD("invalid parameter \\\"start\\\": cannot parse \\\"foo\\\" to a valid timestamp")},
        {"query_range?query=1&start=2&end=1&step=1", 400, BAD("invalid parameter \\\"end\\\": end timestamp must not be before start time")},
        {"query_range?query=1&start=1&end=1&step=0", 400,
         BAD("invalid parameter \\\"step\\\": zero or negative query resolution step widths are not accepted. Try a positive integer")},
        {"query_range?query=1&start=1&end=1&step=0.0001", 400, ""},
        {"query_range?query=1&start=1&end=1&step=1e30", 400,
         BAD("invalid parameter \\\"step\\\": cannot parse \\\"1e30\\\" to a valid duration. It overflows int64")},
        {"query_range?query=1&start=0&end=11001&step=1", 400,
         BAD("exceeded maximum resolution of 11,000 points per timeseries. Try decreasing the query resolution (?step=XX)")},
        {"query_range?query=%22a%22&start=0&end=1&step=1", 400,
         BAD("invalid parameter \\\"query\\\": query expression produces a string, but expression for range queries must produce an instant vector or "
             "scalar")},
        {"query_range?query=q_m%5B5m%5D&start=0&end=1&step=1", 400,
         BAD("invalid parameter \\\"query\\\": query expression produces a range vector, but expression for range queries must produce an instant vector or "
             "scalar")},
        {"query?query=%zz", 400, BAD("invalid URL escape \\\"%zz\\\"")},
    };
    API_CHECK(&rig, cases);
}

Test(query_api, limit_cuts_and_warns)
{
    api_rig_start(&rig);
    static const struct api_case cases[] = {
        {"query?query=sort(q_m)&time=15&limit=1", 200,
         "{\"status\":\"success\",\"data\":{\"resultType\":\"vector\",\"result\":[{\"metric\":{\"__name__\":\"q_m\",\"g\":\"0\",\"i\":\"0\"},\"value\":[15,"
         "\"1\"]}]},\"warnings\":[\"results truncated due to limit\"]}\n"},
        {"query?query=sum(q_m)&time=15&limit=1", 200, VECTOR("{\"metric\":{},\"value\":[15,\"21\"]}")},
    };
    API_CHECK(&rig, cases);
}

Test(query_api, lookback_delta_counts)
{
    api_rig_start(&rig);
    static const struct api_case cases[] = {
        {"query?query=count(q_m)&time=800", 200, VECTOR("{\"metric\":{},\"value\":[800,\"6\"]}")},
        {"query?query=count(q_m)&time=800&lookback_delta=1m", 200, VECTOR("")},
    };
    API_CHECK(&rig, cases);
}

Test(query_api, errors_of_vector_matching_have_the_words_of_the_engine_that_is_asked_for)
{
    api_rig_start(&rig);
    static const char path[] = "query?query=q_m+%2B+on()+q_m&time=15";
    struct reply a = api_ask(&rig, path);
    cr_assert_eq(a.status, 422);
    cr_assert(strstr(a.body, "on the right side of the operation at timestamp 1970-01-01T00:00:15Z"), "%s", a.body);
    free(a.body);
    rig.cfg.query_engine = "prometheus";
    a = api_ask(&rig, path);
    cr_assert_eq(a.status, 422);
    cr_assert(strstr(a.body, "on the right hand-side of the operation: [{__name__="), "%s", a.body);
    free(a.body);
}

Test(query_api, stats_are_an_object_in_data)
{
    api_rig_start(&rig);
    struct reply a = api_ask(&rig, "query?query=q_m&time=600&stats=all");
    cr_assert_eq(a.status, 200);
    cr_assert(strstr(a.body, "],\"stats\":{\"timings\":{\"evalTotalTime\":"), "%s", a.body);
    cr_assert(strstr(a.body, "\"samples\":{\"totalQueryableSamplesPerStep\":[[600,"), "%s", a.body);
    cr_assert(reply_header(&a, "Server-Timing") && strstr(reply_header(&a, "Server-Timing"), "samples_processed;val="));
    reply_free(&a);
    cr_assert(metrics_hold("cortex_query_frontend_queries_total{op=\"query\",user=\"t\"} 1"));
}

Test(query_api, forms_are_read)
{
    api_rig_start(&rig);
    static const char form[] = "query=sum(q_m)&time=15";
    struct reply a = rig_ask(&rig.http, "POST", "/prometheus/api/v1/query", "X-Scope-OrgID: t\r\nContent-Type: application/x-www-form-urlencoded\r\n",
                             form, sizeof(form) - 1);
    cr_expect_str_eq(a.body, VECTOR("{\"metric\":{},\"value\":[15,\"21\"]}"));
    reply_free(&a);
    a = rig_ask(&rig.http, "GET", "/prometheus/api/v1/query?query=1", "", NULL, 0);
    cr_expect_eq(a.status, 401);
    reply_free(&a);
}

Test(query_api, a_query_out_of_time_is_a_timeout)
{
    api_rig_start(&rig);
    static const struct api_case cases[] = {
        {"query?query=sum(q_m)&timeout=0", 503, "{\"status\":\"error\",\"errorType\":\"timeout\",\"error\":\"context deadline exceeded\"}"},
    };
    API_CHECK(&rig, cases);
    rig.barrier_fails = true;
    struct reply a = api_ask(&rig, "query?query=1");
    cr_expect_eq(a.status, 503);
    cr_expect_str_eq(a.body, "{\"status\":\"error\",\"errorType\":\"timeout\",\"error\":\"timed out waiting for the log\"}");
    cr_expect(reply_header(&a, "Retry-After"));
    reply_free(&a);
}

Test(query_api, enabled_experimental_parts_run)
{
    static const char *items[] = {"all"};
    rig.limits.enabled_promql_experimental_functions = (struct flag_list){items, 1};
    api_rig_start(&rig);
    static const struct api_case cases[] = {
        {"query?query=count(limitk(1,q_m))&time=600", 200, VECTOR("{\"metric\":{},\"value\":[600,\"1\"]}")},
    };
    API_CHECK(&rig, cases);
}

#define ADJUST(flag) ". To adjust the related per-tenant limit, configure -" flag ", or contact your service administrator."

Test(query_api, limits_of_the_tenant)
{
    rig.limits.max_query_expression_size_bytes = 40;
    rig.limits.max_total_query_length = 3600000;
    rig.limits.max_partial_query_length = 3000000;
    api_rig_start(&rig);
    static const struct api_case cases[] = {
        {"query?query=sum(q_m)%20%2B%20sum(q_m)%20%2B%20sum(q_m)%20%2B%20sum(q_m)", 400,
         BAD("the raw query size in bytes exceeds the limit (query size: 41, limit: 40) (err-mimir-max-query-expression-size-bytes)" ADJUST(
             "query-frontend.max-query-expression-size-bytes"))},
        {"query_range?query=q_m&start=0&end=7200&step=60", 400,
         BAD("the total query time range exceeds the limit (query length: 2h0m0s, limit: 1h0m0s) (err-mimir-max-total-query-length)" ADJUST(
             "query-frontend.max-total-query-length"))},
        {"query?query=rate(q_m%5B2h%5D)&time=0", 400,
         BAD("the total query time range exceeds the limit (query length: 1h59m59.999s, limit: 1h0m0s) (err-mimir-max-total-query-length)" ADJUST(
             "query-frontend.max-total-query-length"))},
        {"query?query=q_m%20offset%202h&time=0", 200, ""},
        {"query_range?query=q_m&start=0&end=3000&step=60", 422,
         EXEC("the query time range exceeds the limit (query length: 54m59.999s, limit: 50m0s) (err-mimir-max-query-length)" ADJUST(
             "querier.max-partial-query-length"))},
    };
    API_CHECK(&rig, cases);
}

Test(query_api, what_is_too_old_is_empty)
{
    rig.limits.max_query_lookback = 3600000;
    api_rig_start(&rig);
    static const struct api_case cases[] = {
        {"query?query=1%2Bq_m&time=600", 200, VECTOR("")},
        {"query_range?query=1&start=0&end=60&step=60", 200, MATRIX("")},
        {"labels", 200, "{\"status\":\"success\",\"data\":[]}"},
    };
    API_CHECK(&rig, cases);
}

Test(query_api, an_answer_too_large_is_an_error)
{
    rig.cfg.max_response_bytes = 1000;
    api_rig_start(&rig);
    struct reply a = api_ask(&rig, "query_range?query=q_m&start=0&end=600&step=15");
    cr_assert_eq(a.status, 422);
    cr_assert(strstr(a.body, "the answer is larger than 1000 bytes"), "%s", a.body);
    reply_free(&a);
}
