/*
 * Threads that do long work, made to give way to those that do short work.
 *
 * A nice value alone is not enough. A thread that wakes on a core where a thread of low priority runs takes it at once only if it has not used a little more than its
 * share before, and mostly it has; else it waits for the next tick of the kernel (4 ms), whatever the priorities. So may the kernel's own threads, which a sync
 * of a file needs. Two things help. Who works for long asks the kernel four times a millisecond whether anybody else should run. And a core on which the others are alone.
 *
 * That core is left free only while somebody has short work: who does any says so, and one time for the whole process is enough, since all its threads share the
 * cores.
 *
 * All of it may fail, without privileges or on an old kernel, and then does nothing. A priority that was lowered cannot be raised again without privileges.
 */
#pragma once

#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

/* The cores that the process may use, as they were when this was filled; immutable. */
struct priority_cores {
    cpu_set_t all, but_one;
    bool several; /* else both are the same */
};

void priority_cores_init(struct priority_cores *ret);

#define PRIORITY_LONG_WORK 10 /* the nice value of threads that work for long */
/* At least this nice, with a long slice: since Linux 6.12 who has a shorter one takes the core at once, if it has not used its share. tid: of any thread of the process. */
void priority_lower(pid_t tid, int nice);
/*
 * The same for those threads of the process that have this name, a library's; and they leave a core to the others for good. Threads that they start are
 * as they are. Does nothing where there are none.
 */
void priority_lower_named(const char *name);
/* With a short slice: for the one thread that everybody waits for, which works little at a time. It takes a core at once from who has a longer one. */
void priority_prompt(pid_t tid);

/*
 * A thread that gives way while it works. A timer interrupts it each PRIORITY_YIELD_NS with SIGURG, whose handler yields: at work of any kind, and with no loop
 * that has to know of it. Calls that no handler lets the kernel restart (poll, nanosleep) may so end with EINTR. Once the thread has slept for a while the timer stops, until
 * priority_yield is called again: an asleep thread is not woken.
 */
#define PRIORITY_YIELD_NS 250000
struct priority_yield {
    timer_t timer;
    bool there; /* else there is no such timer, and nothing happens */
    _Atomic bool on;
    int64_t cpu_ns; /* of the thread, when the timer came last; the handler's */
};
/* tid: of the thread, which may be another one; y stays where it is until priority_yield_end. */
void priority_yield_init(struct priority_yield *y, pid_t tid);
/* The thread works. Any thread; a system call when the timer does not run. */
void priority_yield(struct priority_yield *y);
/* After the thread's end, or by the thread itself. */
void priority_yield_end(struct priority_yield *y);

/* Leaves one core to the others; or may use all again. */
void priority_spare_a_core(pthread_t thread, const struct priority_cores *cores, bool spare);
/* Short work has begun or ended (clock_mono_ms); and when that was last said, long ago if never. Any thread. */
void priority_short_work(int64_t now_ms);
int64_t priority_short_work_ms(void);
