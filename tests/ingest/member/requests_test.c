/* The endpoints: what they answer in each state, and what they leave behind. Rows of mimir/http.md 4.3, column K, where
 * nothing else is said. */
#include <criterion/criterion.h>

#include "net/page.h"
#include "tests/ingest/member/member_rig.h"

#define PREPARE "/ingester/prepare-shutdown"
#define DOWNSCALE "/ingester/prepare-partition-downscale"
#define UNREGISTER "/ingester/unregister-on-shutdown"

TestSuite(member_requests, .timeout = 120);

/* --- prepare-shutdown --- */

Test(member_requests, prepare_shutdown_then_a_stop_removes_owner_and_entry)
{
    struct world *w = world_new();
    w->cfg.instance.unregister_on_stop = false;
    world_start(w);
    world_activate(w);
    cr_expect_str_eq(ask(w, "GET", PREPARE, NULL), "200 unset\n");
    cr_expect_str_eq(ask(w, "POST", PREPARE, NULL), "204 ");
    cr_expect_str_eq(ask(w, "POST", PREPARE, NULL), "204 ");
    cr_expect_str_eq(ask(w, "GET", PREPARE, NULL), "200 set\n");
    cr_expect(metrics_hold("cortex_ingester_prepare_shutdown_requested 1\n"));
    cr_expect(world_has_file(w, "shutdown-requested.txt"));
    cr_expect_str_eq(ask(w, "GET", UNREGISTER, NULL), "200 {\"unregister\":true}");
    cr_expect_str_eq(entry(w), "ACTIVE 8", "nothing changes before the stop");
    cr_expect_str_eq(partition(w), "PartitionActive 11 owned 0");
    world_stop(w);
    cr_expect_str_eq(entry(w), "");
    cr_expect_str_eq(partition(w), "PartitionActive 11");
    cr_expect_not(world_has_file(w, "shutdown-requested.txt"), "it did what was asked for");
    world_free(w);
}

Test(member_requests, prepare_shutdown_survives_a_crash)
{
    struct world *w = world_new();
    world_start(w);
    ask(w, "POST", PREPARE, NULL);
    world_crash(w);
    cr_expect(world_has_file(w, "shutdown-requested.txt"));
    world_start(w);
    cr_expect_str_eq(ask(w, "GET", PREPARE, NULL), "200 set\n");
    world_stop(w);
    cr_expect_str_eq(partition(w), "PartitionPending 0");
    world_free(w);
}

Test(member_requests, prepare_shutdown_can_be_taken_back)
{
    struct world *w = world_new();
    w->cfg.instance.unregister_on_stop = false;
    world_start(w);
    cr_expect_str_eq(ask(w, "DELETE", PREPARE, NULL), "204 ", "also when it was not set; Mimir answers 405 here");
    ask(w, "POST", PREPARE, NULL);
    cr_expect_str_eq(ask(w, "DELETE", PREPARE, NULL), "204 ");
    cr_expect_str_eq(ask(w, "GET", PREPARE, NULL), "200 unset\n");
    cr_expect_not(world_has_file(w, "shutdown-requested.txt"));
    cr_expect(metrics_hold("cortex_ingester_prepare_shutdown_requested 0\n"));
    cr_expect_str_eq(ask(w, "GET", UNREGISTER, NULL), "200 {\"unregister\":false}");
    world_stop(w);
    cr_expect_str_eq(entry(w), "LEAVING 8");
    cr_expect_str_eq(partition(w), "PartitionPending 0 owned 0");
    world_free(w);
}

static enum kv_cas create_partition(void *arg, void **value, struct err *err)
{
    (void)arg, (void)err;
    if (!*value)
        *value = partition_desc_new();
    partition_create(*value, PARTITION, T0_MS);
    return KV_CAS_STORE;
}

Test(member_requests, who_is_prepared_for_shutdown_makes_no_partition)
{
    struct world *w = world_new();
    struct err err;
    cr_assert(marker_write(w->dir, T0_MS, &err));
    world_make(w);
    world_replay(w);
    cr_assert(member_start(w->m, &err));
    EVENTUALLY(strcmp(entry(w), "ACTIVE 8") == 0);
    usleep(50000);
    cr_expect_str_eq(partition(w), "");
    cr_expect_not(member_ready(w->m, &err));
    cr_expect(strstr(err.text, "shutdown-requested.txt"), "%s", err.text);
    cr_assert(kv_cas(w->store.inner, SL("ingester-partitions"), &partition_desc_codec, create_partition, NULL, NULL));
    EVENTUALLY(world_joined(w));
    cr_expect(member_ready(w->m, &err));
    world_free(w);
}

Test(member_requests, a_store_that_is_down_at_the_stop_leaves_the_request_on_disk)
{
    struct world *w = world_new();
    world_start(w);
    ask(w, "POST", PREPARE, NULL);
    atomic_store(&w->store.down, true);
    world_stop(w);
    cr_expect(world_has_file(w, "shutdown-requested.txt"));
    world_free(w);
}

Test(member_requests, a_disk_that_does_not_take_the_request_refuses_it)
{
    struct world *w = world_new();
    char path[128];
    world_start(w);
    snprintf(path, sizeof(path), "%s/shutdown-requested.txt.tmp", w->dir);
    cr_assert_eq(mkdir(path, 0777), 0);
    cr_expect_eq(strncmp(ask(w, "POST", PREPARE, NULL), "500 ", 4), 0);
    cr_expect_str_eq(ask(w, "GET", PREPARE, NULL), "200 unset\n");
    world_free(w);
}

/* --- prepare-partition-downscale --- */

Test(member_requests, partition_downscale_in_each_state)
{
    struct world *w = world_new();
    char at[64];
    world_start(w);
    cr_expect_str_eq(ask(w, "GET", DOWNSCALE, NULL), "200 {\"timestamp\":0}");
    cr_expect_eq(strncmp(ask(w, "POST", DOWNSCALE, NULL), "409 ", 4), 0, "PENDING");
    cr_expect_str_eq(ask(w, "DELETE", DOWNSCALE, NULL), "200 {\"timestamp\":0}");
    cr_expect_str_eq(partition(w), "PartitionPending 0 owned 0");
    world_activate(w);
    cr_expect_str_eq(ask(w, "GET", DOWNSCALE, NULL), "200 {\"timestamp\":0}");
    cr_expect_str_eq(ask(w, "DELETE", DOWNSCALE, NULL), "200 {\"timestamp\":0}");
    w->now_ms += 9000;
    snprintf(at, sizeof(at), "200 {\"timestamp\":%lld}", (long long)(T0_MS / 1000 + 20));
    cr_expect_str_eq(ask(w, "POST", DOWNSCALE, NULL), at);
    cr_expect_str_eq(partition(w), "PartitionInactive 20 owned 0");
    w->now_ms += 5000;
    cr_expect_str_eq(ask(w, "GET", DOWNSCALE, NULL), at);
    cr_expect_str_eq(ask(w, "POST", DOWNSCALE, NULL), at, "the first time counts");
    world_stop(w);
    world_start(w);
    cr_expect_str_eq(ask(w, "GET", DOWNSCALE, NULL), at, "a restart does not change it");
    cr_expect_str_eq(ask(w, "DELETE", DOWNSCALE, NULL), "200 {\"timestamp\":0}");
    cr_expect_str_eq(partition(w), "PartitionActive 25 owned 0");
    struct reply r = ask_body(w, "PUT", DOWNSCALE, "");
    cr_expect_eq(r.status, 405);
    cr_expect(reply_header(&r, "Allow"));
    reply_free(&r);
    world_free(w);
}

Test(member_requests, a_locked_partition_is_not_changed)
{
    struct world *w = world_new();
    world_start(w);
    world_activate(w);
    partition_lock(w, true);
    static const char *const locked =
        "500 failed to CAS-update key collectors/ingester-partitions: fn returned error: partition state change is locked";
    const char *answer = ask(w, "POST", DOWNSCALE, NULL);
    cr_expect_eq(strncmp(answer, locked, strlen(locked)), 0, "%s", answer);
    cr_expect_str_eq(ask(w, "GET", DOWNSCALE, NULL), "200 {\"timestamp\":0}");
    partition_lock(w, false);
    ask(w, "POST", DOWNSCALE, NULL);
    partition_lock(w, true);
    answer = ask(w, "DELETE", DOWNSCALE, NULL);
    cr_expect_eq(strncmp(answer, locked, strlen(locked)), 0, "%s", answer);
    cr_expect_str_eq(partition(w), "PartitionInactive 12 owned 0");
    world_free(w);
}

Test(member_requests, partition_downscale_without_the_store_is_an_error)
{
    struct world *w = world_new();
    world_start(w);
    atomic_store(&w->store.down, true);
    cr_expect_str_eq(ask(w, "GET", DOWNSCALE, NULL), "500 the store is down\n");
    atomic_store(&w->store.down, false);
    world_free(w);
}

Test(member_requests, instance_ring_downscale_is_refused_with_a_reason)
{
    static const char *const methods[] = {"GET", "POST", "DELETE"};
    struct world *w = world_new();
    world_start(w);
    for (size_t i = 0; i < 3; i++) {
        struct reply r = ask_body(w, methods[i], "/ingester/prepare-instance-ring-downscale", NULL);
        cr_expect_eq(r.status, 405);
        cr_expect_str_eq(reply_header(&r, "Allow"), "OPTIONS");
        cr_expect(strstr(r.body, "/ingester/prepare-partition-downscale"));
        reply_free(&r);
    }
    world_free(w);
}

/* --- unregister-on-shutdown --- */

Test(member_requests, unregister_is_decided_by_flag_and_request)
{
    static const char *const wrong[] = {
        "", "{}", "null", "{\"unregister\":null}", "{\"unregister\":1}", "{\"unregister\":\"true\"}", "[true]", "x"};
    struct world *w = world_new();
    world_start(w);
    cr_expect_str_eq(ask(w, "GET", UNREGISTER, NULL), "200 {\"unregister\":true}");
    cr_expect_str_eq(ask(w, "PUT", UNREGISTER, "{\"unregister\": false}"), "200 {\"unregister\":false}");
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
        cr_expect_eq(strncmp(ask(w, "PUT", UNREGISTER, wrong[i]), "400 ", 4), 0, "%s", wrong[i]);
    cr_expect_str_eq(ask(w, "GET", UNREGISTER, NULL), "200 {\"unregister\":false}");
    cr_expect_str_eq(ask(w, "DELETE", UNREGISTER, NULL), "200 {\"unregister\":true}");
    cr_expect_eq(strncmp(ask(w, "POST", UNREGISTER, "{\"unregister\": false}"), "405 ", 4), 0);
    ask(w, "PUT", UNREGISTER, "{\"unregister\": false}");
    world_stop(w);
    cr_expect_str_eq(entry(w), "LEAVING 8");
    world_start(w);
    cr_expect_str_eq(ask(w, "GET", UNREGISTER, NULL), "200 {\"unregister\":true}", "it holds for one life");
    world_free(w);
}

/* --- shutdown --- */

Test(member_requests, shutdown_leaves_the_rings_and_the_process_stays)
{
    struct world *w = world_new();
    struct err err;
    w->cfg.instance.unregister_on_stop = false;
    world_start(w);
    world_activate(w);
    cr_expect_eq(strncmp(ask(w, "GET", "/ingester/shutdown", NULL), "405 ", 4), 0);
    cr_expect_str_eq(ask(w, "POST", "/ingester/shutdown", NULL), "204 ");
    cr_expect(world_has_file(w, "manifest"));
    cr_expect_str_eq(entry(w), "");
    cr_expect_str_eq(partition(w), "PartitionActive 11");
    cr_expect_not(member_ready(w->m, &err));
    cr_expect_str_eq(err.text, "the ingester was shut down");
    cr_expect_str_eq(ask(w, "POST", "/ingester/shutdown", NULL), "204 ");
    cr_expect_eq(strncmp(ask(w, "POST", PREPARE, NULL), "503 ", 4), 0);
    cr_expect_str_eq(ask(w, "GET", PREPARE, NULL), "200 unset\n");
    usleep(50000);
    cr_expect_str_eq(partition(w), "PartitionActive 11", "no poll owns it again");
    world_stop(w);
    cr_expect_str_eq(entry(w), "");
    world_free(w);
}

Test(member_requests, a_shutdown_that_could_not_leave_the_rings_can_be_repeated)
{
    struct world *w = world_new();
    world_start(w);
    atomic_store(&w->store.down, true);
    cr_expect_eq(strncmp(ask(w, "POST", "/ingester/shutdown", NULL), "503 ", 4), 0);
    atomic_store(&w->store.down, false);
    cr_expect_str_eq(ask(w, "POST", "/ingester/shutdown", NULL), "204 ");
    cr_expect_str_eq(entry(w), "");
    cr_expect_str_eq(partition(w), "PartitionPending 0");
    world_free(w);
}

/* --- pages --- */

static struct reply ask_json(struct world *w, const char *path)
{
    rig_new(&w->http);
    rig_start(&w->http, member_routes, member_routes_n, w->m);
    struct reply r = rig_ask(&w->http, "GET", path, "Accept: application/json\r\nConnection: close\r\n", NULL, 0);
    rig_stop(&w->http);
    return r;
}

static void produced(struct plog_produce *p, const struct err *err)
{
    (void)err;
    p->n = 0;
}

/* WriteRequest{timeseries{labels{__name__, up}, samples{value 1, timestamp T0}}} */
static void push_one(struct world *w)
{
    struct buf sample, series, request;
    double v = 1;
    buf_init(&sample, 0), buf_init(&series, 0), buf_init(&request, 0);
    buf_putc(&sample, 0x09), buf_put(&sample, &v, 8), buf_putc(&sample, 0x10), buf_put_uvarint(&sample, T0_MS + 493);
    buf_puts(&series, "\x0a\x0e\x0a\x08__name__\x12\x02up\x12");
    buf_put_uvarint(&series, sample.n), buf_put_slice(&series, buf_slice(&sample));
    buf_putc(&request, 0x0a), buf_put_uvarint(&request, series.n), buf_put_slice(&request, buf_slice(&series));
    struct plog_record rec = {.partition = PARTITION, .tenant = SL("t1"), .value = buf_slice(&request)};
    struct plog_produce p = {.records = &rec, .n = 1, .done = produced};
    cr_assert(plog_produce(w->log, &p, NULL));
    struct ingester_tenant t;
    EVENTUALLY(ingester_tenant(w->ing, SL("t1"), &t) && t.num_series == 1);
    buf_release(&sample), buf_release(&series), buf_release(&request);
}

Test(member_requests, pages_of_tenants)
{
    struct world *w = world_new();
    w->ingest.retention_period = 0; /* the test's time is another one */
    world_start(w);
    struct reply r = ask_json(w, "/ingester/tenants");
    cr_expect(strncmp(r.body, "{\"Now\":\"", 8) == 0 && strstr(r.body, ",\"Tenants\":null}"), "%s", r.body);
    reply_free(&r);
    push_one(w);
    r = ask_json(w, "/ingester/tenants");
    cr_expect(
        strstr(r.body,
               ",\"Tenants\":[{\"Tenant\":\"t1\",\"Blocks\":0,\"MinTime\":\"2027-01-15T08:00:00Z "
               "(1800000000493)\",\"MaxTime\":"
               "\"2027-01-15T08:00:00Z (1800000000493)\",\"PastGracePeriod\":0,\"FutureGracePeriod\":600000000000,"
               "\"Warning\":\"\"}]}"),
        "%s", r.body);
    reply_free(&r);
    r = ask_json(w, "/ingester/tsdb/t1");
    cr_expect(
        strstr(r.body,
               ",\"Tenant\":\"t1\",\"Head\":{\"MinTime\":\"2027-01-15T08:00:00Z "
               "(1800000000493)\",\"MaxTime\":\"2027-01-15T08:00:00Z "
               "(1800000000493)\",\"NumSeries\":1,\"AppendableMinValidTime\":\"2027-01-15T07:00:00Z (1799996400493)\","
               "\"MinOOOTime\":\"math.MaxInt64\",\"MaxOOOTime\":\"math.MinInt64\"},\"Blocks\":null}"),
        "%s", r.body);
    reply_free(&r);
    cr_expect_str_eq(ask(w, "GET", "/ingester/tsdb/nobody", NULL), "404 TSDB not found for tenant nobody");
    world_free(w);
}

Test(member_requests, pages_for_people)
{
    static const struct page_frame frame = {.brand = "Test", .style = "x.css"};
    struct world *w = world_new();
    w->ingest.retention_period = 0;
    page_set_frame(&frame);
    world_start(w);
    push_one(w);
    cr_expect(strstr(ask(w, "GET", "/ingester/tenants", NULL), "<a href=\"tsdb/t1\">t1</a>"));
    cr_expect(strstr(ask(w, "GET", "/ingester/tsdb/t1", NULL), "<h1>Tenant t1</h1>"));
    world_free(w);
}
