#include "base/logger.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"

#define LOG_LINE_MAX 8192

enum log_level log_min_level = LOG_LEVEL_INFO;
bool log_json;

static const char *const level_names[] = {"debug", "info", "warn", "error"};

/* Room for one line on the stack: logging must work when memory does not. */
struct line {
    char bytes[LOG_LINE_MAX];
    size_t n;
};

static void put(struct line *l, const char *p, size_t n)
{
    size_t room = LOG_LINE_MAX - 1 - l->n; /* one byte stays free for the newline */
    n = n < room ? n : room;
    memcpy(l->bytes + l->n, p, n);
    l->n += n;
}

static void put_str(struct line *l, const char *s)
{
    put(l, s, strlen(s));
}

static bool needs_quotes(struct slice s)
{
    if (s.n == 0)
        return true;
    for (size_t i = 0; i < s.n; i++) {
        unsigned char c = (unsigned char)s.p[i];
        if (c <= ' ' || c == '"' || c == '=' || c == '\\' || c == 0x7F)
            return true;
    }
    return false;
}

static void put_quoted(struct line *l, struct slice s)
{
    put(l, "\"", 1);
    for (size_t i = 0; i < s.n && l->n < LOG_LINE_MAX - 16; i++) {
        unsigned char c = (unsigned char)s.p[i];
        char esc[8];
        if (c == '"' || c == '\\')
            put(l, esc, (size_t)snprintf(esc, sizeof(esc), "\\%c", c));
        else if (c == '\n')
            put(l, "\\n", 2);
        else if (c < ' ' || c == 0x7F)
            put(l, esc, (size_t)snprintf(esc, sizeof(esc), "\\u%04x", c));
        else
            put(l, s.p + i, 1);
    }
    put(l, "\"", 1);
}

static void put_value(struct line *l, const struct log_value *v)
{
    char num[64];
    switch (v->kind) {
    case LOG_VALUE_STR:
        if (log_json || needs_quotes(v->s))
            put_quoted(l, v->s);
        else
            put(l, v->s.p, v->s.n);
        return;
    case LOG_VALUE_I64:
        put(l, num, (size_t)snprintf(num, sizeof(num), "%lld", (long long)v->i));
        return;
    case LOG_VALUE_U64:
        put(l, num, (size_t)snprintf(num, sizeof(num), "%llu", (unsigned long long)v->u));
        return;
    case LOG_VALUE_F64:
        put(l, num, (size_t)snprintf(num, sizeof(num), "%g", v->f));
        return;
    case LOG_VALUE_BOOL:
        put_str(l, v->b ? "true" : "false");
        return;
    }
}

static void put_field(struct line *l, const char *key, const struct log_value *v)
{
    if (log_json) {
        put_str(l, l->n > 1 ? ",\"" : "\"");
        put_str(l, key);
        put_str(l, "\":");
    } else {
        if (l->n)
            put(l, " ", 1);
        put_str(l, key);
        put(l, "=", 1);
    }
    put_value(l, v);
}

void log_write(enum log_level level, const char *file, int line, const char *msg, const struct log_field *fields,
               int n_fields)
{
    struct line l = {.n = 0};
    char text[256];
    if (log_json)
        put(&l, "{", 1);
    int64_t now_ms = clock_wall_ms();
    clock_rfc3339(now_ms / 1000, (int32_t)(now_ms % 1000) * 1000000, 3, text);
    put_field(&l, "ts", &LOG_STR(text));
    put_field(&l, "level", &LOG_STR(level_names[level]));
    snprintf(text, sizeof(text), "%s:%d", file, line);
    put_field(&l, "caller", &LOG_STR(text));
    put_field(&l, "msg", &LOG_STR(msg));
    for (int i = 0; i < n_fields; i++)
        put_field(&l, fields[i].key, &fields[i].value);
    if (log_json)
        put(&l, "}", 1);
    l.bytes[l.n++] = '\n';
    /* Nothing can be done about a stderr that takes no more. */
    ssize_t ignored = write(STDERR_FILENO, l.bytes, l.n);
    (void)ignored;
}
