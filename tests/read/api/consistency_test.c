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

TestSuite(query_api_consistency, .init = setup, .fini = teardown);

static void expect_tags(const char *path, const char *headers, const char *tags)
{
    char all[512], where[256];
    snprintf(all, sizeof(all), "X-Scope-OrgID: t\r\n%s", headers);
    snprintf(where, sizeof(where), "/prometheus/api/v1/%s", path);
    struct reply a = rig_ask(&rig.http, "GET", where, all, NULL, 0);
    cr_expect_eq(a.status, 200, "%s: %s", headers, a.body);
    cr_expect_str_eq(rig.tags, tags, "%s: %s", headers, rig.tags);
    reply_free(&a);
}

#define QUERY "query?query=q_m&time=600"
#define STRONG "__consistency_level__=strong;"

Test(query_api_consistency, headers_become_tags)
{
    static const struct {
        const char *headers, *tags;
    } cases[] = {
        {"", ""},
        {"X-Read-Consistency: strong\r\n", STRONG},
        {"X-Read-Consistency: eventual\r\n", "__consistency_level__=eventual;"},
        {"x-read-consistency: strong\r\nX-Read-Consistency-Offsets: v1=0:41,1:-1\r\n", STRONG "__consistency_offsets__=v1=0:41,1:-1;"},
        {"X-Read-Consistency: eventual\r\nX-Read-Consistency-Max-Delay: 30s\r\n", "__consistency_level__=eventual;__consistency_max_delay__=30s;"},
        /* What cannot be read is passed over. */
        {"X-Read-Consistency: Strong\r\n", ""},
        {"X-Read-Consistency: \r\n", ""},
        {"X-Read-Consistency-Max-Delay: soon\r\n", ""},
    };
    api_rig_start(&rig);
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
        expect_tags(QUERY, cases[i].headers, cases[i].tags);
    expect_tags("series?match[]=q_m", "X-Read-Consistency: strong\r\n", STRONG);
    expect_tags("labels", "X-Read-Consistency: strong\r\n", STRONG);
}

Test(query_api_consistency, the_tenant_limit_is_the_default)
{
    rig.limits.ingest_storage_read_consistency = "strong";
    api_rig_start(&rig);
    expect_tags(QUERY, "", STRONG);
    expect_tags(QUERY, "X-Read-Consistency: eventual\r\n", "__consistency_level__=eventual;");
    expect_tags(QUERY, "X-Read-Consistency: whatever\r\n", STRONG);
}

/* BETTER.md: Mimir answers 500 internal. */
Test(query_api_consistency, a_strong_read_that_is_not_reached_in_time_is_503_with_retry_after)
{
    rig.barrier_fails = true;
    api_rig_start(&rig);
    struct reply a = rig_ask(&rig.http, "GET", "/prometheus/api/v1/" QUERY, "X-Scope-OrgID: t\r\nX-Read-Consistency: strong\r\n", NULL, 0);
    cr_expect_eq(a.status, 503);
    cr_expect_str_eq(a.body, "{\"status\":\"error\",\"errorType\":\"timeout\",\"error\":\"timed out waiting for the log\"}");
    cr_expect(reply_header(&a, "Retry-After"));
    reply_free(&a);
}
