/* Against a log of the test's own, whose answers it holds back and counts. */
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#include "base/assert.h"
#include "base/clock.h"
#include "log/last_produced.h"
#include "log/plog_int.h"

#define PARTITIONS 3

struct fake {
    struct plog base;
    atomic_int questions;
    atomic_int held; /* while above 0 answers wait */
    _Atomic int64_t next[PARTITIONS];
    atomic_bool broken;
    atomic_size_t largest;
};

static void sleep_ms(int64_t ms)
{
    nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000}, NULL);
}

static bool fake_ends(struct plog *log, const int32_t *partitions, size_t n, int64_t *ret_next, struct err *err)
{
    struct fake *f = CONTAINER_OF(log, struct fake, base);
    for (size_t i = 0; i < n; i++)
        ret_next[i] = atomic_load(&f->next[partitions[i]]); /* as it is when the question was put */
    if (n > atomic_load(&f->largest))
        atomic_store(&f->largest, n);
    atomic_fetch_add(&f->questions, 1);
    while (atomic_load(&f->held) > 0)
        sleep_ms(1);
    return !atomic_load(&f->broken) || err_set(err, ERR_UNAVAILABLE, "brokers are away");
}

static const struct plog_ops fake_ops = {.ends = fake_ends};
static struct fake fake;
static struct last_produced *lp;

static void begin(int64_t interval_ms)
{
    fake.base = (struct plog){&fake_ops, PARTITIONS};
    lp = last_produced_new(&fake.base, &(struct plog_config){.kafka_offset_poll_interval = interval_ms});
}

static int64_t ask(int32_t partition)
{
    struct ctx ctx = {.deadline_ms = clock_mono_ms() + 20000};
    struct partition_offset o = {.partition = partition};
    struct err err = ERR_NONE;
    cr_assert(last_produced_wait(lp, &ctx, &o, 1, &err), "%s", err.text);
    return o.offset;
}

static void *ask_main(void *arg)
{
    int64_t *answer = arg;
    *answer = ask((int32_t)*answer);
    return NULL;
}

Test(last_produced, is_one_below_the_end_and_minus_one_of_an_empty_partition)
{
    begin(1000);
    atomic_store(&fake.next[1], 42);
    struct ctx ctx = {0};
    struct partition_offset o[] = {{.partition = 0}, {.partition = 1}, {.partition = 0}};
    cr_assert(last_produced_wait(lp, &ctx, o, 3, NULL));
    cr_expect(o[0].offset == -1 && o[1].offset == 41 && o[2].offset == -1);
    cr_expect_eq(atomic_load(&fake.questions), 1);
    cr_expect_eq(atomic_load(&fake.largest), 2);
    cr_expect(last_produced_wait(lp, &ctx, NULL, 0, NULL));
    last_produced_free(lp);
}

Test(last_produced, an_answer_is_of_a_question_after_the_wait_began)
{
    begin(0);
    atomic_store(&fake.held, 1);
    int64_t early = 0, late = 0;
    pthread_t a, b;
    pthread_create(&a, NULL, ask_main, &early);
    while (atomic_load(&fake.questions) == 0)
        sleep_ms(1);
    atomic_store(&fake.next[0], 10); /* produced while the first question is under way */
    pthread_create(&b, NULL, ask_main, &late);
    sleep_ms(30);
    atomic_store(&fake.held, 0);
    pthread_join(a, NULL);
    pthread_join(b, NULL);
    cr_expect(early == -1 || early == 9); /* a later answer is as good, if it woke up late */
    cr_expect_eq(late, 9);
    last_produced_free(lp);
}

Test(last_produced, many_waiters_share_few_questions)
{
    begin(2000); /* 20 ms apart */
    int64_t begin_ms = clock_mono_ms();
    for (int round = 0; round < 10; round++) {
        pthread_t t[16];
        int64_t answer[16];
        for (size_t i = 0; i < 16; i++) {
            answer[i] = (int64_t)(i % PARTITIONS);
            pthread_create(&t[i], NULL, ask_main, &answer[i]);
        }
        for (size_t i = 0; i < 16; i++)
            pthread_join(t[i], NULL);
    }
    int64_t took_ms = clock_mono_ms() - begin_ms;
    cr_expect_leq(atomic_load(&fake.questions), took_ms / 20 + 1);
    last_produced_free(lp);
}

Test(last_produced, an_error_of_the_log_and_the_ends_of_patience_are_told)
{
    begin(0);
    struct err err = ERR_NONE;
    struct partition_offset o = {.partition = 0};
    struct ctx ctx = {0};
    atomic_store(&fake.broken, true);
    cr_expect(!last_produced_wait(lp, &ctx, &o, 1, &err));
    cr_expect(err.code == ERR_UNAVAILABLE);
    cr_expect_str_eq(err.text, "brokers are away");
    atomic_store(&fake.broken, false);
    cr_expect(last_produced_wait(lp, &ctx, &o, 1, &err));
    atomic_store(&fake.held, 1);
    ctx.deadline_ms = clock_mono_ms() + 30;
    cr_expect(!last_produced_wait(lp, &ctx, &o, 1, &err) && err.code == ERR_TIMEOUT);
    atomic_bool canceled = true;
    ctx = (struct ctx){.canceled = &canceled};
    cr_expect(!last_produced_wait(lp, &ctx, &o, 1, &err) && err.code == ERR_CANCELED);
    o.partition = -1;
    cr_expect(!last_produced_wait(lp, &ctx, &o, 1, &err) && err.code == ERR_NOT_FOUND);
    atomic_store(&fake.held, 0);
    last_produced_free(lp);
}

Test(last_produced, a_partition_that_the_log_has_not_is_an_error)
{
    begin(0);
    struct err err = ERR_NONE;
    struct partition_offset o = {.partition = 700};
    cr_expect(!last_produced_wait(lp, &(struct ctx){0}, &o, 1, &err) && err.code == ERR_NOT_FOUND);
    last_produced_free(lp);
}
