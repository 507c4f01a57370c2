#include "base/clock.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

static _Atomic int64_t fake_wall_ms; /* atomic: writer tests, readers any, relaxed */

static int64_t read_ns(clockid_t clock)
{
    struct timespec ts;
    clock_gettime(clock, &ts);
    return ts.tv_sec * INT64_C(1000000000) + ts.tv_nsec;
}

int64_t clock_wall_ns(void)
{
    int64_t fake = atomic_load_explicit(&fake_wall_ms, memory_order_relaxed);
    return fake ? fake * 1000000 : read_ns(CLOCK_REALTIME);
}

int64_t clock_wall_ms(void)
{
    return clock_wall_ns() / 1000000;
}

int64_t clock_mono_ns(void)
{
    return read_ns(CLOCK_MONOTONIC);
}

int64_t clock_mono_ms(void)
{
    return clock_mono_ns() / 1000000;
}

int64_t clock_thread_cpu_ns(void)
{
    return read_ns(CLOCK_THREAD_CPUTIME_ID);
}

bool clock_rfc3339(int64_t s, int32_t ns, int decimals, char ret[static CLOCK_RFC3339_MAX])
{
    time_t t = (time_t)(ns < 0 ? s - 1 : s);
    struct tm tm;
    size_t n = gmtime_r(&t, &tm) ? strftime(ret, CLOCK_RFC3339_MAX, "%Y-%m-%dT%H:%M:%S", &tm) : 0;
    if (!n) {
        strcpy(ret, CLOCK_NO_TIME);
        return false;
    }
    if (decimals) {
        int digits = snprintf(ret + n, CLOCK_RFC3339_MAX - n, ".%09d", (int)(ns < 0 ? ns + 1000000000 : ns));
        size_t end = n + (size_t)(decimals > 0 ? 1 + decimals : digits);
        if (decimals == CLOCK_AS_NEEDED)
            while (end > n && (ret[end - 1] == '0' || ret[end - 1] == '.'))
                end--;
        n = end;
    }
    strcpy(ret + n, "Z");
    return true;
}

void clock_fake_wall_ms(int64_t ms)
{
    atomic_store_explicit(&fake_wall_ms, ms, memory_order_relaxed);
}
