/*
 * The Kafka back end against librdkafka's cluster in this process, which can be told to fail. What needs real brokers
 * is in tests/e2e/test_kafka.py.
 */
#include <criterion/criterion.h>
#include <inttypes.h>
#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>
#include <snappy-c.h>
#include <time.h>

#include "base/assert.h"
#include "base/clock.h"
#include "tests/log/plog_util.h"

#define TOPIC "ingest"
#define PRODUCE_API 0

static rd_kafka_t *owner;
static rd_kafka_mock_cluster_t *cluster;
static struct plog *plog;
static const char *address[1];

static struct plog_config kafka_config(void)
{
    return (struct plog_config){
        .producer_max_buffered_bytes = 4 * MIB,
        .kafka_address = {address, 1},
        .kafka_topic = TOPIC,
        .kafka_client_id = "",
        .kafka_client_rack = "",
        .kafka_dial_timeout = 2000,
        .kafka_write_timeout = 2000,
        .kafka_auto_create_topic_partitions = -1,
        .kafka_fetch_max_wait = 500,
        .kafka_max_buffered_bytes = MIB,
        .kafka_offset_timeout = 2000,
        .kafka_sasl_mechanism = "PLAIN",
        .kafka_sasl_username = "",
        .kafka_sasl_password = "",
        .kafka_tls_ca_path = "",
        .kafka_tls_cert_path = "",
        .kafka_tls_key_path = "",
        .kafka_tls_server_name = "",
        .kafka_tls_min_version = "",
        .kafka_tls_cipher_suites = "",
        .kafka_oauth_token = "",
        .kafka_oauth_file_path = "",
        .kafka_oauth_zid = "",
        .kafka_oauth_extensions = "",
        .kafka_oauth_socket_path = "",
        .kafka_linger = 5,
        .kafka_compression = "lz4",
    };
}

static void setup(void)
{
    char text[256];
    log_min_level = LOG_LEVEL_ERROR;
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    rd_kafka_conf_set_log_cb(conf, NULL);
    owner = rd_kafka_new(RD_KAFKA_PRODUCER, conf, text, sizeof(text));
    cr_assert(owner);
    cluster = rd_kafka_mock_cluster_new(owner, 1);
    cr_assert(cluster);
    cr_assert_eq(rd_kafka_mock_topic_create(cluster, TOPIC, 2, 1), 0);
    address[0] = rd_kafka_mock_cluster_bootstraps(cluster);
    struct plog_config cfg = kafka_config();
    struct err err = ERR_NONE;
    plog = plog_open_kafka(&cfg, &err);
    cr_assert(plog, "%s", err.text);
    cr_assert_eq(plog_partitions(plog), 2);
}

static void teardown(void)
{
    plog_close(plog);
    rd_kafka_mock_cluster_destroy(cluster);
    rd_kafka_destroy(owner);
}

TestSuite(kafka, .init = setup, .fini = teardown, .timeout = 60);

static struct plog_record record(const char *value)
{
    return (struct plog_record){.partition = 1, .tenant = SL("t"), .value = slice_of(value)};
}

static void must_produce(struct plog_record *r, size_t n)
{
    struct err err = ERR_NONE;
    cr_assert(produce_wait(plog, r, n, &err), "%s", err.text);
}

static void must_fetch(int64_t offset, size_t max_bytes, struct plog_batch *ret)
{
    struct err err = ERR_NONE;
    cr_assert(plog_fetch(plog, 1, offset, max_bytes, 5000, ret, &err), "%s", err.text);
}

Test(kafka, a_fetched_record_is_the_produced_one_and_its_value_is_plain)
{
    char packed[256];
    size_t n_packed = sizeof(packed);
    snappy_compress("compressed before", 17, packed, &n_packed);
    struct plog_record r[4] = {record("zero"), record("one"), record(""), record("")};
    r[0].timestamp_ms = 1234567890123;
    r[1].version = 1;
    r[2].version = 2;
    r[2].form = PLOG_SNAPPY;
    r[2].value = slice_make(packed, n_packed);
    must_produce(r, 4);
    const char *values[] = {"zero", "one", "compressed before", ""};
    int64_t position = 0;
    while (position < 4) {
        struct plog_batch b;
        must_fetch(position, MIB, &b);
        for (size_t i = 0; i < b.n; i++, position++) {
            const struct plog_record *got = &b.records[i];
            cr_expect_eq(got->offset, position);
            cr_expect_eq(r[position].offset, position);
            cr_expect(slice_eq(got->tenant, SL("t")));
            cr_expect_eq(got->version, r[position].version);
            cr_expect_eq(got->form, PLOG_PLAIN);
            cr_expect_eq(got->timestamp_ms, r[position].timestamp_ms);
            cr_expect(slice_eq(got->value, slice_of(values[position])));
        }
        cr_expect_eq(b.next_offset, position);
        plog_batch_release(&b);
    }
}

Test(kafka, batches_are_bounded_and_any_offset_may_be_fetched_again)
{
    struct plog_record r[20];
    for (size_t i = 0; i < 20; i++)
        r[i] = record("0123456789");
    must_produce(r, 20);
    struct plog_batch b;
    must_fetch(0, 25, &b);
    cr_expect(b.n > 0 && b.n <= 3);
    cr_expect_eq(b.next_offset, (int64_t)b.n);
    plog_batch_release(&b);
    must_fetch(17, MIB, &b);
    cr_expect_eq(b.records[0].offset, 17);
    plog_batch_release(&b);
    must_fetch(2, MIB, &b);
    cr_expect_eq(b.records[0].offset, 2);
    plog_batch_release(&b);
}

/* Fetches at offset 1, where nothing is; until what is there is known to be complete as of then, or for so long. */
static int64_t complete_from(int64_t then_ms, int64_t for_ms)
{
    int64_t newest_ms = 0;
    for (int64_t until_ms = clock_mono_ms() + for_ms; newest_ms < then_ms && clock_mono_ms() < until_ms;) {
        struct plog_batch b;
        cr_assert(plog_fetch(plog, 1, 1, MIB, 50, &b, NULL));
        cr_expect(b.n == 0 && b.complete_ms <= clock_mono_ms());
        newest_ms = MAX(newest_ms, b.complete_ms);
        plog_batch_release(&b);
    }
    return newest_ms;
}

Test(kafka, a_broker_that_does_not_answer_says_nothing_of_its_end)
{
    struct plog_record r = record("x");
    must_produce(&r, 1);
    int64_t now_ms = clock_mono_ms();
    cr_expect_geq(complete_from(now_ms, 10000), now_ms);
    rd_kafka_mock_broker_set_rtt(cluster, 1, 2500);
    usleep(600000); /* what was asked before is answered */
    now_ms = clock_mono_ms();
    cr_expect_lt(complete_from(now_ms, 1200), now_ms);
    rd_kafka_mock_broker_set_rtt(cluster, 1, 0);
    cr_expect_geq(complete_from(now_ms, 20000), now_ms);
}

Test(kafka, a_fetch_waits_at_the_end_and_fails_beyond_it)
{
    struct plog_record r = record("x");
    must_produce(&r, 1);
    struct plog_batch b;
    struct err err = ERR_NONE;
    cr_assert(plog_fetch(plog, 1, 1, MIB, 100, &b, &err), "%s", err.text);
    cr_expect_eq(b.n, 0);
    cr_expect_eq(b.next_offset, 1);
    plog_batch_release(&b);
    cr_expect_not(plog_fetch(plog, 1, 77, MIB, 3000, &b, &err));
    cr_expect_eq(err.code, ERR_NOT_FOUND, "%s", err.text);
    /* And what comes meanwhile is there. */
    must_produce(&r, 1);
    must_fetch(1, MIB, &b);
    cr_expect_eq(b.n, 1);
    plog_batch_release(&b);
}

Test(kafka, offsets_and_what_this_process_has_produced)
{
    int64_t first, next;
    struct err err = ERR_NONE;
    cr_assert(plog_acknowledged(plog, 1, &next, &err) && next == 0);
    struct plog_record r[3] = {record("a"), record("b"), record("c")};
    must_produce(r, 3);
    cr_assert(plog_offsets(plog, 1, &first, &next, &err), "%s", err.text);
    cr_expect(first == 0 && next == 3);
    cr_assert(plog_acknowledged(plog, 1, &next, &err) && next == 3);
    cr_assert(plog_acknowledged(plog, 0, &next, &err) && next == 0);
}

Test(kafka, over_the_bound_of_waiting_bytes_a_request_is_refused_whole)
{
    static char big[5 * MIB];
    struct plog_record r[2] = {record("small"), record("")};
    r[1].value = slice_make(big, sizeof(big));
    struct err err = ERR_NONE;
    cr_expect_not(produce_wait(plog, r, 2, &err));
    cr_expect_eq(err.code, ERR_TOO_LARGE);
    int64_t first, next;
    cr_assert(plog_offsets(plog, 1, &first, &next, &err), "%s", err.text);
    cr_expect_eq(next, 0);
}

Test(kafka, without_a_broker_a_produce_fails_in_bounded_time_and_heals)
{
    struct plog_record r = record("x");
    must_produce(&r, 1);
    rd_kafka_mock_broker_set_down(cluster, 1);
    struct err err = ERR_NONE;
    int64_t begin_ms = clock_mono_ms();
    cr_expect_not(produce_wait(plog, &r, 1, &err));
    cr_expect(clock_mono_ms() - begin_ms < 6000);
    cr_expect_eq(err_http_status(err.code), 503);
    cr_expect(err_retriable(err.code));
    rd_kafka_mock_broker_set_up(cluster, 1);
    must_produce(&r, 1);
}

Test(kafka, passing_errors_are_tried_again_and_others_fail_the_request)
{
    struct plog_record r[2] = {record("x"), record("y")};
    rd_kafka_mock_push_request_errors(cluster, PRODUCE_API, 2, RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
                                      RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS);
    must_produce(r, 2);
    rd_kafka_mock_push_request_errors(cluster, PRODUCE_API, 1, RD_KAFKA_RESP_ERR_POLICY_VIOLATION);
    struct err err = ERR_NONE;
    cr_expect_not(produce_wait(plog, r, 1, &err));
    cr_expect(strstr(err.text, "Policy violation"), "%s", err.text);
    must_produce(r, 1);
}

Test(kafka, a_fatal_error_of_the_producer_is_survived)
{
    struct plog_record r = record("x");
    must_produce(&r, 1);
    struct err err = ERR_NONE;
    log_min_level = LOG_LEVEL_ERROR + 1;
    rd_kafka_mock_push_request_errors(cluster, PRODUCE_API, 1, RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER);
    bool ok = produce_wait(plog, &r, 1, &err);
    for (int i = 0; i < 50 && !ok; i++) {
        usleep(100000);
        ok = produce_wait(plog, &r, 1, &err);
    }
    cr_expect(ok, "%s", err.text);
}

Test(kafka, a_group_keeps_the_last_consumed_offset)
{
    int64_t offset;
    struct err err = ERR_NONE;
    cr_assert(plog_committed(plog, SL("ingester-1"), 1, &offset, &err), "%s", err.text);
    cr_expect_eq(offset, -1);
    cr_assert(plog_commit(plog, SL("ingester-1"), 1, 4, &err), "%s", err.text);
    cr_assert(plog_committed(plog, SL("ingester-1"), 1, &offset, &err), "%s", err.text);
    cr_expect_eq(offset, 4);
    cr_assert(plog_committed(plog, SL("ingester-0"), 1, &offset, &err), "%s", err.text);
    cr_expect_eq(offset, -1);
}

Test(kafka, ends_of_several_partitions_are_one_question)
{
    struct err err = ERR_NONE;
    struct plog_record r[3] = {record("a"), record("b"), record("c")};
    must_produce(r, 3);
    int64_t next[3] = {-7, -7, -7};
    cr_assert(plog_ends(plog, (int32_t[]){1, 0, 1}, 3, next, &err), "%s", err.text);
    cr_expect(next[0] == 3 && next[1] == 0 && next[2] == 3);
    cr_expect(!plog_ends(plog, (int32_t[]){1, 2}, 2, next, &err) && err.code == ERR_UNAVAILABLE);
}

static void *wake_soon(void *arg)
{
    (void)arg;
    nanosleep(&(struct timespec){.tv_nsec = 200000000}, NULL);
    plog_wake(plog, 1);
    return NULL;
}

Test(kafka, a_fetch_that_waits_can_be_woken)
{
    struct plog_record r = record("a");
    struct plog_batch b;
    struct err err = ERR_NONE;
    must_produce(&r, 1);
    must_fetch(0, MIB, &b);
    plog_batch_release(&b);
    pthread_t t;
    pthread_create(&t, NULL, wake_soon, NULL);
    int64_t begin_ms = clock_mono_ms();
    cr_assert(plog_fetch(plog, 1, 1, MIB, 20000, &b, &err), "%s", err.text);
    cr_expect(b.n == 0 && b.next_offset == 1);
    plog_batch_release(&b);
    pthread_join(t, NULL);
    plog_wake(plog, 1); /* before the fetch that would wait */
    cr_assert(plog_fetch(plog, 1, 1, MIB, 20000, &b, &err));
    plog_batch_release(&b);
    cr_expect_lt(clock_mono_ms() - begin_ms, 5000);
}

Test(kafka, a_partition_that_is_not_there_is_an_error_that_may_pass)
{
    struct plog_record r = record("a");
    r.partition = 2;
    struct err err = ERR_NONE;
    int64_t first, next;
    cr_expect(!produce_wait(plog, &r, 1, &err) && err.code == ERR_UNAVAILABLE);
    cr_expect_str_eq(err.text, "the log has no partition 2, it has 2");
    cr_expect(!plog_offsets(plog, 2, &first, &next, &err) && err.code == ERR_UNAVAILABLE);
}

Test(kafka, flags_that_cannot_be_are_told_before_anything_is_opened)
{
    struct plog_config cfg;
    struct err err = ERR_NONE;
#define REFUSED(word, ...)                                                                                             \
    do {                                                                                                               \
        cfg = kafka_config();                                                                                          \
        __VA_ARGS__;                                                                                                   \
        cr_expect(!plog_open_kafka(&cfg, &err) && err.code == ERR_CONFIG);                                             \
        cr_expect(strstr(err.text, word), "%s", err.text);                                                             \
    } while (0)
    REFUSED("producer-record-version", cfg.kafka_record_version = 2);
    REFUSED("producer-compression", cfg.kafka_compression = "rar");
    REFUSED("producer-linger", cfg.kafka_linger = 2000);
    REFUSED("AWS_MSK_IAM", cfg.kafka_sasl_mechanism = "AWS_MSK_IAM");
    REFUSED("needs one of", cfg.kafka_sasl_mechanism = "OAUTHBEARER");
    REFUSED("zid", cfg.kafka_sasl_mechanism = "OAUTHBEARER", cfg.kafka_oauth_token = "t", cfg.kafka_oauth_zid = "z");
    REFUSED("extensions", cfg.kafka_sasl_mechanism = "OAUTHBEARER", cfg.kafka_oauth_token = "t",
            cfg.kafka_oauth_extensions = "[]");
    REFUSED("VersionTLS14", cfg.kafka_tls_enabled = true, cfg.kafka_tls_min_version = "VersionTLS14");
    REFUSED("TLS_NONE_SUCH", cfg.kafka_tls_enabled = true, cfg.kafka_tls_cipher_suites = "TLS_NONE_SUCH");
    cfg = kafka_config();
    cr_expect(!plog_config_validate(&cfg, &err) && strstr(err.text, "-ingest-storage.enabled"));
    cfg.enabled = true;
    cr_expect(plog_config_validate(&cfg, &err));
    cfg.send_to_ingesters = true;
    cr_expect(!plog_config_validate(&cfg, &err));
}
