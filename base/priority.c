#include "base/priority.h"

#include <stdatomic.h>
#include <sys/syscall.h>
#include <unistd.h>

/*
 * Several threads behind share a core, and each has to look at its deadline, and whether anybody still wants its answer, well within 100 ms. Any slice longer
 * than the usual one (3 ms) has the effect.
 */
#define LONG_SLICE_NS 10000000
#define SHORT_SLICE_NS 100000 /* the kernel allows no shorter one */

static _Atomic int64_t short_work_ms = INT64_MIN / 2;

/* struct sched_attr of the kernel, its first version; the C library has neither it nor the calls. */
struct attributes {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t slice_ns, deadline_ns, period_ns;
};

void priority_cores_init(struct priority_cores *ret)
{
    CPU_ZERO(&ret->all);
    ret->several = sched_getaffinity(0, sizeof(ret->all), &ret->all) == 0 && CPU_COUNT(&ret->all) > 1;
    ret->but_one = ret->all;
    for (size_t i = 0; ret->several && i < CPU_SETSIZE; i++)
        if (CPU_ISSET(i, &ret->all)) {
            CPU_CLR(i, &ret->but_one);
            break;
        }
}

static void set(pid_t tid, int nice, uint64_t slice_ns)
{
    struct attributes a = {.size = sizeof(a)};
    if (syscall(SYS_sched_getattr, tid, &a, sizeof(a), 0) != 0 || (a.policy != SCHED_OTHER && a.policy != SCHED_BATCH))
        return;
    a.nice = a.nice > nice ? a.nice : nice;
    a.slice_ns = slice_ns;
    a.flags = 0; /* what is there may be more than may be asked for */
    (void)syscall(SYS_sched_setattr, tid, &a, 0);
}

void priority_lower(pid_t tid, int nice)
{
    set(tid, nice, LONG_SLICE_NS);
}

void priority_prompt(pid_t tid)
{
    set(tid, INT32_MIN, SHORT_SLICE_NS);
}

void priority_spare_a_core(pthread_t thread, const struct priority_cores *cores, bool spare)
{
    if (cores->several)
        (void)pthread_setaffinity_np(thread, sizeof(cores->all), spare ? &cores->but_one : &cores->all);
}

/* Millions say so in a second: the same millisecond is written once. */
void priority_short_work(int64_t now_ms)
{
    if (priority_short_work_ms() != now_ms)
        atomic_store_explicit(&short_work_ms, now_ms, memory_order_relaxed);
}

int64_t priority_short_work_ms(void)
{
    return atomic_load_explicit(&short_work_ms, memory_order_relaxed);
}
