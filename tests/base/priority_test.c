#include "base/priority.h"

#include <criterion/criterion.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

/* A thread that works, or sleeps, as it is told. */
struct worker {
    struct priority_yield yield;
    pthread_t thread;
    pid_t tid;
    atomic_bool began, works, stop;
};

static void pause_ms(int ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L}, NULL);
}

static void *work_or_sleep(void *arg)
{
    struct worker *w = arg;
    w->tid = gettid();
    priority_yield_init(&w->yield, w->tid);
    priority_yield(&w->yield);
    atomic_store(&w->began, true);
    while (!atomic_load(&w->stop))
        if (!atomic_load(&w->works))
            pause_ms(1);
    return NULL;
}

static void begin(struct worker *w, bool works)
{
    atomic_init(&w->works, works);
    cr_assert_eq(pthread_create(&w->thread, NULL, work_or_sleep, w), 0);
    while (!atomic_load(&w->began))
        pause_ms(1);
}

static void end(struct worker *w)
{
    atomic_store(&w->stop, true);
    pthread_join(w->thread, NULL);
    priority_yield_end(&w->yield);
}

static bool timer_ends(struct worker *w)
{
    for (int i = 0; i < 10000 && atomic_load(&w->yield.on); i++)
        pause_ms(1);
    return !atomic_load(&w->yield.on);
}

Test(priority, a_timer_ends_when_its_thread_sleeps_and_is_there_again_when_it_is_said_to_work)
{
    static struct worker w;
    begin(&w, true);
    atomic_store(&w.works, false);
    cr_assert(timer_ends(&w));
    pause_ms(20);
    cr_assert_not(atomic_load(&w.yield.on), "nobody has said that it works again");
    for (int i = 0; i < 3; i++) {
        priority_yield(&w.yield);
        cr_assert(timer_ends(&w));
    }
    end(&w);
}

Test(priority, the_signal_of_anybody_else_does_nothing)
{
    static struct worker w;
    begin(&w, false);
    cr_assert(timer_ends(&w));
    for (int i = 0; i < 10; i++) {
        pthread_kill(w.thread, SIGURG);
        kill(getpid(), SIGURG);
    }
    cr_assert_not(atomic_load(&w.yield.on));
    end(&w);
}

static int nice_of(const struct worker *w)
{
    return getpriority(PRIO_PROCESS, (id_t)w->tid);
}

static int n_cores_of(const struct worker *w)
{
    cpu_set_t cores;
    cr_assert_eq(sched_getaffinity(w->tid, sizeof(cores), &cores), 0);
    return CPU_COUNT(&cores);
}

Test(priority, threads_of_a_name_are_lowered_and_no_others)
{
    static struct worker named, other;
    begin(&named, false);
    begin(&other, false);
    int nice = nice_of(&other), n_cores = n_cores_of(&other);
    pthread_setname_np(named.thread, "of_a_library");
    priority_lower_named("of_a_library");
    priority_lower_named("nobody");
    cr_assert_eq(nice_of(&named), nice > PRIORITY_LONG_WORK ? nice : PRIORITY_LONG_WORK);
    cr_assert_eq(n_cores_of(&named), n_cores > 1 ? n_cores - 1 : 1);
    cr_assert_eq(nice_of(&other), nice);
    cr_assert_eq(n_cores_of(&other), n_cores);
    end(&named);
    end(&other);
}
