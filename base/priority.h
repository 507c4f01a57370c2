/*
 * Threads that do long work, made to give way to those that do short work.
 *
 * A nice value alone is not enough. While a thread of low priority runs, one that wakes on its core may wait for the next tick of the kernel (4 ms), when it has just
 * used a little more than its share; so may the kernel's own threads, which a sync of a file needs. Two things help. A long time slice: since Linux 6.12 a thread whose
 * slice is shorter takes the core at once, where otherwise it waits for the end of a slice. And a core on which the others are alone.
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

/* The cores that the process may use, as they were when this was filled; immutable. */
struct priority_cores {
    cpu_set_t all, but_one;
    bool several; /* else both are the same */
};

void priority_cores_init(struct priority_cores *ret);
/* At least this nice, with a long slice. tid: of any thread of the process. */
void priority_lower(pid_t tid, int nice);
/* With a short slice: for the one thread that everybody waits for, which works little at a time. It takes a core at once from who has a longer one. */
void priority_prompt(pid_t tid);
/* Leaves one core to the others; or may use all again. */
void priority_spare_a_core(pthread_t thread, const struct priority_cores *cores, bool spare);
/* Short work has begun or ended (clock_mono_ms); and when that was last said, long ago if never. Any thread. */
void priority_short_work(int64_t now_ms);
int64_t priority_short_work_ms(void);
