/*
 * Errors: one table (errors.def), one caller-owned struct.
 *
 * A function that can fail returns bool (true = done) or a pointer (NULL = failed) and takes a struct err * as its last
 * argument. On failure it has set the error; on success it left it alone. Library code returns errors and does not log
 * them; the code that decides what happens next logs once. `err` may be NULL where the caller needs no text.
 *
 * The text never ends in a full stop or newline. It is cut at ERR_TEXT_MAX bytes, at a UTF-8 boundary.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#define ERR_TEXT_MAX 1024

enum err_code {
#define ERR(code, http, id, retriable, level) ERR_##code,
#include "base/errors.def"
#undef ERR
    ERR_CODES
};

struct err {
    enum err_code code; /* ERR_OK when nothing is wrong */
    char text[ERR_TEXT_MAX];
};

/* A struct err that says nothing went wrong; `struct err err = ERR_NONE;` */
#define ERR_NONE ((struct err){.code = ERR_OK, .text = ""})

/* Sets code and text; returns false, so that `return err_set(...)` reads well. err may be NULL. */
bool err_set(struct err *err, enum err_code code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* As err_set, with ": " and strerror(errnum) added; ENOSPC and EDQUOT become ERR_NO_SPACE whatever code says. */
bool err_errno(struct err *err, enum err_code code, int errnum, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* Puts a prefix before the text ("reading x: " ...); returns false. */
bool err_prefix(struct err *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* What the table says of a code. */
int err_http_status(enum err_code code);
const char *err_public_id(enum err_code code); /* "" when none */
bool err_retriable(enum err_code code);
const char *err_name(enum err_code code); /* "BAD_DATA" */
