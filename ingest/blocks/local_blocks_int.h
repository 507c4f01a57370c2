/* The lists of local blocks, for the files of this room. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "ingest/blocks/local_blocks.h"

#define METRICS_ROOM local_blocks
#define METRICS_DEF "ingest/blocks/local_blocks_metrics.def"
#include "base/metrics_table.h"

#define PENDING "pending"
#define DELETING "deleting"

struct local_block {
    struct local_blocks *lb;
    struct tenant_blocks *tenant; /* lives as long as lb */
    struct ulid ulid;
    int64_t min_t;
    int64_t max_t; /* exclusive */
    bool out_of_order;
    struct block *reader; /* NULL: it could not be opened */
    uint64_t bytes;
    _Atomic int refs; /* the list's and one a reader */
    bool pending;     /* lb->lock, as all below */
    int64_t shipped_ms; /* 0: it is not */
    bool damaged;
    char *why; /* owned; of a damaged one */
};

struct tenant_blocks {
    struct slice tenant; /* owned, NUL-terminated */
    struct local_block **blocks; /* by ULID */
    size_t n;
    size_t cap;
    struct metric *m_bytes;
};

struct local_blocks {
    char *dir;
    int64_t retention_ms;
    int64_t store_has_it_ms;
    pthread_mutex_t lock;
    bool has_shipper;               /* lock */
    struct tenant_blocks **tenants; /* by name; never removed; lock */
    size_t n;
    size_t cap;
};

/* Small things: without memory for them nothing goes on. */
void *blocks_realloc(void *p, size_t n);
void *blocks_calloc(size_t n, size_t size);

/* Under lock. With `make` never NULL. */
struct tenant_blocks *blocks_of(struct local_blocks *lb, struct slice tenant, bool make);
/* Under lock; t may be NULL. */
struct local_block *block_of(const struct tenant_blocks *t, const struct ulid *ulid);
/* Under lock; the list's reference is the caller's then. */
void blocks_unlist(struct tenant_blocks *t, size_t at);
void local_block_unref(struct local_block *b);

/* below: a folder in the tenant's, or "". */
void blocks_tenant_path(const struct local_blocks *lb, struct slice tenant, const char *below, char *out, size_t cap);
void blocks_path(const struct local_blocks *lb, struct slice tenant, const char *below, const struct ulid *ulid, char *out, size_t cap);
