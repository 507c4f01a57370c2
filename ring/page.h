/*
 * The page of an instance ring, /ingester/ring and the like: who is in it, for people and as JSON, and the hand that takes out an instance that is gone
 * for good. Answers are Mimir's (http.md 4.2); the page is ours.
 *
 *     GET                            HTML; ?tokens=true shows the tokens
 *     GET, Accept: application/json  {"shards": [...], "now": ...}
 *     POST forget=<instance id>      302; 500 when there is no such instance
 *
 * The document is read from the store at each request, so that who changed something sees it changed.
 */
#pragma once

#include "net/http.h"
#include "ring/kv.h"

/* The handler's arg. Owned by app; immutable after start. */
struct ring_page {
    const char *title; /* "Ingesters": text of the heading and of the link in the page's frame */
    struct kv *kv;
    const char *key;       /* as the store knows it */
    const char *shown_key; /* with the store's prefix: "collectors/ring"; errors name it */
    int64_t heartbeat_timeout_ms; /* 0: heartbeats do not matter */
};

/* For a route with HTTP_GET | HTTP_POST; it waits for the store, so it is for a pool. */
http_handler ring_page;
