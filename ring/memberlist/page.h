/*
 * GET /memberlist: members and keys, for people and as JSON, with Mimir's parameters and answers (http.md 4.1): viewKey
 * with format, downloadKey, viewMsg and deleteMessages (no history of messages is kept, so there never is one to view).
 * The page is ours, and what Mimir prints as a Go struct is indented JSON here.
 */
#pragma once

#include "base/json.h"
#include "net/http.h"
#include "ring/memberlist/memberlist.h"

/* How values of a codec look as JSON: the fields of the protobuf message, those that are empty left out. */
struct memberlist_view {
    const struct kv_codec *codec;
    void (*json)(const void *value, struct json *j);
};

/* The handlers' arg. Owned by app; immutable after start. */
struct memberlist_page {
    struct memberlist *m;                /* NULL: this process does not gossip, and the page says so */
    const struct memberlist_view *views; /* of codecs beside that of the instance ring, which is known here */
    size_t n_views;
};

extern const struct http_route memberlist_routes[];
extern const size_t memberlist_routes_n;
