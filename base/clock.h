/* Time. Wall time is int64_t milliseconds since the epoch; intervals use the monotonic clock. Any thread. */
#pragma once

#include <stdint.h>

int64_t clock_wall_ms(void);
int64_t clock_wall_ns(void);
int64_t clock_mono_ms(void);
int64_t clock_mono_ns(void);

/* For tests: wall time stands still at ms (0 = follow the system again). Monotonic time is never faked. */
void clock_fake_wall_ms(int64_t ms);
