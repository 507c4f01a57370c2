/* Label matchers of selectors. Immutable after init; any thread may match. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/regex.h"
#include "base/slice.h"
#include "model/labels.h"

enum matcher_type { MATCH_EQ, MATCH_NEQ, MATCH_RE, MATCH_NRE };

struct matcher {
    enum matcher_type type;
    struct slice name;   /* not owned */
    struct slice value;  /* not owned */
    struct regex *regex; /* owned, for MATCH_RE and MATCH_NRE; else NULL */
    uint16_t *set_table; /* owned; hash table over a long list of alternatives: index + 1 into the regex's set, 0 =
                            free; NULL: list is short */
    uint32_t set_mask;   /* its size - 1 */
};

bool matcher_init(struct matcher *m, enum matcher_type type, struct slice name, struct slice value, struct err *err);
void matcher_release(struct matcher *m);
/* An absent label has the value "". */
bool matcher_matches(const struct matcher *m, struct slice value);
bool matcher_matches_empty(const struct matcher *m);
bool matchers_match(const struct matcher *ms, size_t n, struct labels l);
/* name="value", name=~"re"; the value quoted as Go's %q, and so is a name that is no legacy name. */
void matcher_print(const struct matcher *m, struct buf *out);
