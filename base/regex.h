/*
 * Regular expressions: RE2 behind a C door (cxx.cc), with what matchers need to avoid running it. Matching is on the whole text
 * (anchored both ends), dot matches newline, linear time. Immutable after compile; any thread may match.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"
#include "base/slice.h"

struct regex;

/*
 * Compiles "^(?s:pattern)$". On a bad pattern: ERR_BAD_DATA with Go's wording as Prometheus shows it, for instance
 *   error parsing regexp: missing closing ): `(foo`
 * Memory for the program is bounded (8 MiB).
 */
struct regex *regex_new(struct slice pattern, struct err *err);
void regex_free(struct regex *r);

/* About how much memory it takes, matching not counted. */
size_t regex_bytes(const struct regex *r);

bool regex_match(const struct regex *r, struct slice text);

/*
 * What the pattern says without running it:
 *   set: n > 0 when the pattern matches exactly these literals (foo, foo|bar, a(b|c), (?i) excluded); at most 256
 *   prefix, suffix: literal start and end that every match has; may be empty
 *   contains: literal that every match contains; may be empty
 *   any / any_nonempty: ".*" / ".+"
 */
struct regex_facts {
    const struct slice *set;
    size_t set_n;
    struct slice prefix;
    struct slice suffix;
    struct slice contains;
    bool any;
    bool any_nonempty;
};
const struct regex_facts *regex_get_facts(const struct regex *r);

/*
 * For label_replace: replaces in `text` when the whole of it matches; tmpl uses Go's $1, ${1}, ${name}, $$. Returns false when there is no
 * match. The result is appended to out.
 */
struct buf;
bool regex_expand(const struct regex *r, struct slice text, struct slice tmpl, struct buf *out);
