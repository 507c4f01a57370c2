#include "base/priority.h"

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"

#define LONG_SLICE_NS 10000000 /* any that is longer than the usual one (3 ms) has the effect */
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

static bool has_name(const char *tid, const char *name)
{
    char path[64], comm[32] = "";
    snprintf(path, sizeof(path), "/proc/self/task/%.20s/comm", tid);
    FILE *f = fopen(path, "re");
    bool got = f && fgets(comm, sizeof(comm), f);
    if (f)
        fclose(f);
    comm[strcspn(comm, "\n")] = 0;
    return got && strcmp(comm, name) == 0;
}

void priority_lower_named(const char *name)
{
    DIR *tasks = opendir("/proc/self/task");
    struct priority_cores cores;
    priority_cores_init(&cores);
    for (struct dirent *d; tasks && (d = readdir(tasks));) {
        if (!has_name(d->d_name, name))
            continue;
        pid_t tid = (pid_t)strtol(d->d_name, NULL, 10);
        priority_lower(tid, PRIORITY_LONG_WORK);
        if (cores.several)
            (void)sched_setaffinity(tid, sizeof(cores.but_one), &cores.but_one);
    }
    if (tasks)
        closedir(tasks);
}

void priority_prompt(pid_t tid)
{
    set(tid, INT32_MIN, SHORT_SLICE_NS);
}

/* --- giving way --- */

static bool once_more(const struct priority_yield *y)
{
    return timer_settime(y->timer, 0, &(struct itimerspec){.it_value.tv_nsec = PRIORITY_YIELD_NS}, NULL) == 0;
}

/* On the thread that works, between any two of its instructions. `on` was set by any thread, after all else of y. */
static void give_way(int sig, siginfo_t *info, void *context)
{
    (void)sig;
    (void)context;
    struct priority_yield *y = info->si_value.sival_ptr;
    if (info->si_code != SI_TIMER || !atomic_load_explicit(&y->on, memory_order_acquire))
        return;
    int saved = errno;
    int64_t cpu_ns = clock_thread_cpu_ns();
    bool works = cpu_ns - y->cpu_ns > PRIORITY_YIELD_NS / 4;
    y->cpu_ns = cpu_ns;
    if (works)
        sched_yield();
    if (!works || !once_more(y))
        atomic_store_explicit(&y->on, false, memory_order_release);
    errno = saved;
}

static void take_signal(void)
{
    sigaction(SIGURG, &(struct sigaction){.sa_sigaction = give_way, .sa_flags = SA_RESTART | SA_SIGINFO}, NULL);
}

void priority_yield_init(struct priority_yield *y, pid_t tid)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, take_signal);
    struct sigevent to = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGURG, .sigev_value.sival_ptr = y};
    to._sigev_un._tid = tid; /* glibc 2.36 has no other name for it */
    set(tid, INT32_MIN, PRIORITY_YIELD_NS); /* who yields gives up the rest of its slice */
    *y = (struct priority_yield){.there = false};
    y->there = timer_create(CLOCK_MONOTONIC, &to, &y->timer) == 0;
}

void priority_yield(struct priority_yield *y)
{
    if (!y->there || atomic_exchange_explicit(&y->on, true, memory_order_acq_rel))
        return;
    if (!once_more(y))
        atomic_store_explicit(&y->on, false, memory_order_release);
}

void priority_yield_end(struct priority_yield *y)
{
    if (y->there)
        timer_delete(y->timer);
    y->there = false;
}

/* --- a core --- */

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
