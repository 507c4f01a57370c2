#include "base/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/utf8.h"

struct err_row {
    const char *name;
    int http_status;
    const char *public_id;
    bool retriable;
};

static const struct err_row err_rows[] = {
#define ERR(code, http, id, retriable, level) {#code, http, id, retriable},
#include "base/errors.def"
#undef ERR
};

static const struct err_row *row_of(enum err_code code)
{
    ASSERT((unsigned)code < ERR_CODES);
    return &err_rows[code];
}

int err_http_status(enum err_code code)
{
    return row_of(code)->http_status;
}

const char *err_public_id(enum err_code code)
{
    return row_of(code)->public_id;
}

bool err_retriable(enum err_code code)
{
    return row_of(code)->retriable;
}

const char *err_name(enum err_code code)
{
    return row_of(code)->name;
}

/* vsnprintf cuts anywhere; a cut inside a rune would make the answer's JSON or a log line invalid. */
static void cut_at_rune(char *text, int printed)
{
    if (printed < ERR_TEXT_MAX)
        return;
    text[utf8_cut(slice_make(text, ERR_TEXT_MAX - 1), ERR_TEXT_MAX - 2).n] = '\0';
}

static void set_text(struct err *err, enum err_code code, const char *fmt, va_list ap) __attribute__((format(printf, 3, 0)));
static void set_text(struct err *err, enum err_code code, const char *fmt, va_list ap)
{
    err->code = code;
    cut_at_rune(err->text, vsnprintf(err->text, sizeof(err->text), fmt, ap));
}

bool err_set(struct err *err, enum err_code code, const char *fmt, ...)
{
    if (!err)
        return false;
    va_list ap;
    va_start(ap, fmt);
    set_text(err, code, fmt, ap);
    va_end(ap);
    return false;
}

bool err_errno(struct err *err, enum err_code code, int errnum, const char *fmt, ...)
{
    if (!err)
        return false;
    if (errnum == ENOSPC || errnum == EDQUOT)
        code = ERR_NO_SPACE;
    va_list ap;
    va_start(ap, fmt);
    set_text(err, code, fmt, ap);
    va_end(ap);
    char reason[128];
    size_t n = strlen(err->text);
    cut_at_rune(err->text, (int)n + snprintf(err->text + n, sizeof(err->text) - n, ": %s",
                                             strerror_r(errnum, reason, sizeof(reason))));
    return false;
}

bool err_prefix(struct err *err, const char *fmt, ...)
{
    if (!err)
        return false;
    struct err prefix;
    va_list ap;
    va_start(ap, fmt);
    set_text(&prefix, err->code, fmt, ap);
    va_end(ap);
    size_t n = strlen(prefix.text);
    cut_at_rune(prefix.text, (int)n + snprintf(prefix.text + n, sizeof(prefix.text) - n, "%s", err->text));
    *err = prefix;
    return false;
}
