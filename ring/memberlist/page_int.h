/* What the page shows, copied, and how it is written as JSON. */
#pragma once

#include "ring/memberlist/memberlist_int.h"
#include "ring/memberlist/page.h"

/* Owned by the request; cfg and own_name by the member, which outlives it and does not change them. */
struct snapshot {
    const struct memberlist_config *cfg;
    const char *own_name;
    int awareness;
    int64_t now_ms;
    struct node *nodes; /* by name */
    size_t n_nodes;
    struct entry *entries; /* by key */
    size_t n_entries;
};
void snapshot_take(struct memberlist *m, struct snapshot *ret);
void snapshot_release(struct snapshot *s);
/* Initialises out: the value's bytes as on the wire. */
void snapshot_encode(const struct entry *e, struct buf *out);

/* --- page_json.c --- */
void status_json(const struct snapshot *s, struct buf *out);
/* null for a codec that nobody has a view of. */
void view_json(const struct memberlist_page *page, const struct entry *e, struct json *j);
/* The same document with line breaks and four spaces a level, as Go's SetIndent. */
void json_indent(struct slice compact, struct buf *out);
