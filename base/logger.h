/*
 * The process logger: logfmt lines on stderr, one write(2) a line, any thread.
 *
 *   LOG_INFO("opened the log", {"segments", LOG_I64(3)}, {"dir", LOG_STR(path)});
 *   ts=2026-11-21T07:31:43.123Z level=info caller=log/embedded.c:120 msg="opened the log" segments=3 dir=/x
 *
 * Values with blanks, quotes, '=' or control characters are quoted and escaped. A line is cut at 8 KiB.
 * -log.level drops lower levels before anything is formatted. -log.format=json writes one JSON object a line.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/slice.h"

enum log_level { LOG_LEVEL_DEBUG, LOG_LEVEL_INFO, LOG_LEVEL_WARN, LOG_LEVEL_ERROR };

struct log_value {
    enum { LOG_VALUE_STR, LOG_VALUE_I64, LOG_VALUE_U64, LOG_VALUE_F64, LOG_VALUE_BOOL } kind;
    union {
        struct slice s;
        int64_t i;
        uint64_t u;
        double f;
        bool b;
    };
};

#define LOG_STR(x) ((struct log_value){.kind = LOG_VALUE_STR, .s = slice_of(x)})
#define LOG_SLICE(x) ((struct log_value){.kind = LOG_VALUE_STR, .s = (x)})
#define LOG_ERR(e) ((struct log_value){.kind = LOG_VALUE_STR, .s = slice_of((e)->text)})
#define LOG_I64(x) ((struct log_value){.kind = LOG_VALUE_I64, .i = (int64_t)(x)})
#define LOG_U64(x) ((struct log_value){.kind = LOG_VALUE_U64, .u = (uint64_t)(x)})
#define LOG_F64(x) ((struct log_value){.kind = LOG_VALUE_F64, .f = (x)})
#define LOG_BOOL(x) ((struct log_value){.kind = LOG_VALUE_BOOL, .b = (x)})

struct log_field {
    const char *key;
    struct log_value value;
};

extern enum log_level log_min_level; /* set once at start */
extern bool log_json;                /* set once at start */

void log_write(enum log_level level, const char *file, int line, const char *msg, const struct log_field *fields,
               int n_fields);

/* LOG_x(msg, {"key", LOG_STR(v)}, ...): the fields are struct log_field initialisers. */
#define LOG_AT(level, msg, ...)                                                                                        \
    do {                                                                                                               \
        if ((level) >= log_min_level) {                                                                                \
            const struct log_field log_fields_[] = {{0}, ##__VA_ARGS__};                                               \
            log_write((level), __FILE__, __LINE__, (msg), log_fields_ + 1,                                             \
                      (int)(sizeof(log_fields_) / sizeof(log_fields_[0])) - 1);                                        \
        }                                                                                                              \
    } while (0)
#define LOG_DEBUG(msg, ...) LOG_AT(LOG_LEVEL_DEBUG, msg, ##__VA_ARGS__)
#define LOG_INFO(msg, ...) LOG_AT(LOG_LEVEL_INFO, msg, ##__VA_ARGS__)
#define LOG_WARN(msg, ...) LOG_AT(LOG_LEVEL_WARN, msg, ##__VA_ARGS__)
#define LOG_ERROR(msg, ...) LOG_AT(LOG_LEVEL_ERROR, msg, ##__VA_ARGS__)
