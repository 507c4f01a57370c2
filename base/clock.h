/* Time. Wall time is int64_t milliseconds since the epoch; intervals use the monotonic clock. Any thread. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

int64_t clock_wall_ms(void);
int64_t clock_wall_ns(void);
int64_t clock_mono_ms(void);
int64_t clock_mono_ns(void);
int64_t clock_thread_cpu_ns(void); /* of the calling thread; a system call. Also from signal handlers */

/*
 * RFC 3339 in UTC, "2026-11-21T04:57:12.5Z", NUL-terminated. ns may be negative, as quotient and remainder of a time before 1970 are. decimals of the
 * second: 0 to 9, or CLOCK_AS_NEEDED: as many as it has. False when the calendar has no such second: ret is then CLOCK_NO_TIME.
 */
#define CLOCK_RFC3339_MAX 48
#define CLOCK_AS_NEEDED (-1)
#define CLOCK_NO_TIME "0001-01-01T00:00:00Z" /* Go's */
bool clock_rfc3339(int64_t s, int32_t ns, int decimals, char ret[static CLOCK_RFC3339_MAX]);

/* For tests: wall time stands still at ms (0 = follow the system again). Monotonic time is never faked. */
void clock_fake_wall_ms(int64_t ms);
