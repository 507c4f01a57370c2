/*
 * Checks of our own logic.
 *
 * ASSERT stays on in release builds: it guards what cannot happen unless this program is wrong.
 * SLOW_ASSERT is for checks that cost more than a few instructions; it is on in dev and sanitizer builds.
 * Neither may be used on anything read from outside (disk, log, network, configuration): such values go
 * through a check that returns a struct err.
 */
#pragma once

_Noreturn void assert_failed(const char *expr, const char *file, int line);

#define ASSERT(expr) ((expr) ? (void)0 : assert_failed(#expr, __FILE__, __LINE__))

#ifdef BRUNN_SLOW_ASSERTS
#define SLOW_ASSERT(expr) ASSERT(expr)
#else
#define SLOW_ASSERT(expr) ((void)0)
#endif

#define LIKELY(x) __builtin_expect(!!(x), 1)
#define UNLIKELY(x) __builtin_expect(!!(x), 0)
#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))
#define CONTAINER_OF(ptr, type, member) ((type *)((char *)(ptr) - offsetof(type, member)))
#define CACHE_LINE 64
