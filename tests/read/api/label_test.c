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

TestSuite(label_api, .init = setup, .fini = teardown);

#define DATA(data) "{\"status\":\"success\",\"data\":" data "}"
#define CUT(data, warning) "{\"status\":\"success\",\"data\":" data ",\"warnings\":[\"" warning "\"]}"
#define S(i, g) "{\"__name__\":\"q_m\",\"g\":\"" g "\",\"i\":\"" i "\"}"

Test(label_api, names_values_and_series)
{
    api_rig_start(&rig);
    static const struct api_case cases[] = {
        {"labels", 200, DATA("[\"__name__\",\"g\",\"i\"]")},
        {"labels?match[]=q_m", 200, DATA("[\"__name__\",\"g\",\"i\"]")},
        {"labels?match[]=nope", 200, DATA("[]")},
        {"labels?match[]=nope&match[]=q_m", 200, DATA("[\"__name__\",\"g\",\"i\"]")},
        {"labels?start=9000&end=9100", 200, DATA("[]")},
        {"labels?limit=1", 200, CUT("[\"__name__\"]", "results truncated due to limit")},
        {"label/g/values", 200, DATA("[\"0\",\"1\"]")},
        {"label/i/values?match[]=q_m%7Bi=%223%22%7D&match[]=q_m%7Bi=%221%22%7D", 200, DATA("[\"1\",\"3\"]")},
        {"label/a-b/values", 200, DATA("[]")},
        {"label/i/values?limit=2", 200, CUT("[\"0\",\"1\"]", "results truncated due to limit")},
        {"series?match[]=q_m%7Bi=~%22[12]%22%7D", 200, DATA("[" S("2", "0") "," S("1", "1") "]")},
        {"series?match[]=q_m%7Bi=~%22[12]%22%7D&match[]=q_m%7Bi=~%22[23]%22%7D", 200, DATA("[" S("2", "0") "," S("1", "1") "," S("3", "1") "]")},
        {"series?match[]=q_m&limit=1", 200, CUT("[" S("0", "0") "]", "results truncated due to limit")},
        {"series?match[]=q_m&limit=6", 200, ""},
        {"series?match[]=q_m&start=-292273086-05-16T16:47:06Z&end=292277025-08-18T07:12:54.999999999Z&limit=6", 200, ""},
    };
    API_CHECK(&rig, cases);
}

Test(label_api, bad_parameters_are_named)
{
    api_rig_start(&rig);
    static const struct api_case cases[] = {
        {"labels?match[]=q_m%7B", 400, BAD("1:5: parse error: unexpected end of input inside braces")},
        {"labels?match[]=%7B%7D", 400, BAD("match[] must contain at least one non-empty matcher")},
        {"labels?start=2&end=1", 400, BAD("invalid parameter \\\"end\\\": end timestamp must not be before start time")},
        {"labels?start=x", 400, BAD("invalid parameter \\\"start\\\": cannot parse \\\"x\\\" to a valid timestamp")},
        {"labels?limit=x", 400, BAD("limit parameter must be greater than or equal to 0, got x")},
        {"labels?limit=-1", 400, BAD("limit parameter must be greater than or equal to 0, got -1")},
        {"series", 400, BAD("no match[] parameter provided")},
        {"series?match[]=q_m%7B", 400, BAD("invalid parameter \\\"match[]\\\": 1:5: parse error: unexpected end of input inside braces")},
        {"series?match[]=%7B%7D", 400, BAD("invalid parameter \\\"match[]\\\": match[] must contain at least one non-empty matcher")},
        {"series?match[]=q_m&match[]=x%7Ba=~%22(%22%7D", 400,
         BAD("invalid parameter \\\"match[]\\\": 1:3: parse error: error parsing regexp: missing closing ): `(`")},
    };
    API_CHECK(&rig, cases);
}

Test(label_api, limits_of_the_tenant)
{
    rig.limits.max_label_names_limit = 1;
    rig.limits.max_series_query_limit = 2;
    api_rig_start(&rig);
    static const struct api_case cases[] = {
        {"labels", 200,
         CUT("[\"__name__\"]", "results may be truncated due to querier.max-label-names-limit (requested limit: 0, enforced: 1)")},
        {"labels?limit=2", 200,
         CUT("[\"__name__\"]", "results may be truncated due to querier.max-label-names-limit (requested limit: 3, enforced: 1)")},
        {"series?match[]=q_m", 200,
         CUT("[" S("0", "0") "," S("2", "0") "]", "results may be truncated due to querier.max-series-query-limit (requested limit: 0, enforced: 2)")},
    };
    API_CHECK(&rig, cases);
}

Test(label_api, too_many_series_are_refused)
{
    rig.limits.max_fetched_series_per_query = 1;
    api_rig_start(&rig);
    struct reply a = api_ask(&rig, "series?match[]=q_m");
    cr_assert_eq(a.status, 422);
    cr_assert(strstr(a.body, "the query exceeded the maximum number of series (limit: 1 series) (err-mimir-max-series-per-query). Consider"), "%s", a.body);
    reply_free(&a);
}

Test(label_api, metadata)
{
    api_rig_start(&rig);
#define A1 "{\"type\":\"counter\",\"help\":\"help \\\"a\\\"\",\"unit\":\"s\"}"
#define A2 "{\"type\":\"gauge\",\"help\":\"\",\"unit\":\"\"}"
#define B1 "{\"type\":\"unknown\",\"help\":\"b\",\"unit\":\"\"}"
    static const struct api_case cases[] = {
        {"metadata", 200, DATA("{\"a\":[" A1 "," A2 "],\"b\":[" B1 "]}")},
        {"metadata?metric=b", 200, DATA("{\"b\":[" B1 "]}")},
        {"metadata?metric=nope", 200, DATA("{}")},
        {"metadata?limit=1", 200, DATA("{\"a\":[" A1 "," A2 "]}")},
        {"metadata?limit=0", 200, DATA("{}")},
        {"metadata?limit=-1&limit_per_metric=1", 200, DATA("{\"a\":[" A1 "],\"b\":[" B1 "]}")},
        {"metadata?limit=x", 400, BAD("limit must be a number")},
        {"metadata?limit_per_metric=x", 400, BAD("limit_per_metric must be a number")},
    };
    API_CHECK(&rig, cases);
}

Test(label_api, exemplars_formats_and_buildinfo)
{
    api_rig_start(&rig);
    static const struct api_case cases[] = {
        {"query_exemplars?query=rate(q_m[5m])%2Bq_m", 200,
         DATA("[{\"seriesLabels\":" S("0", "0") ",\"exemplars\":[{\"labels\":{\"trace\":\"t1\"},\"value\":\"1.5\",\"timestamp\":1795237073.500}]}]")},
        {"query_exemplars?query=nope", 200, DATA("[]")},
        {"query_exemplars?query=q_m&start=2&end=1", 400, BAD("end timestamp must not be before start timestamp")},
        {"query_exemplars?query=q_m&start=x", 400,
         BAD("invalid parameter \\\"start\\\": invalid time value for 'start': cannot parse \\\"x\\\" to a valid timestamp")},
        {"query_exemplars?query=q_m%7B", 400, BAD("1:5: parse error: unexpected end of input inside braces")},
        {"format_query?query=sum(rate(x[5m]))by(a)", 200, DATA("\"sum by (a) (rate(x[5m]))\"")},
        {"format_query?query=sum(", 400, BAD("invalid parameter \\\"query\\\": 1:5: parse error: unclosed left parenthesis")},
    };
    API_CHECK(&rig, cases);
    struct reply a = rig_ask(&rig.http, "GET", "/api/v1/status/buildinfo", "", NULL, 0);
    struct reply b = rig_ask(&rig.http, "GET", "/prometheus/api/v1/status/buildinfo", "", NULL, 0);
    cr_assert_str_eq(a.body, b.body);
    cr_assert(strstr(a.body, "\"application\":\"Grafana Mimir\",\"version\":\"" BRUNN_VERSION "\""), "%s", a.body);
    reply_free(&a);
    reply_free(&b);
}
