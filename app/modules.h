/* The modules of the process in the order in which they start; what each does is in modules.c and cluster.c. Private to app/. */
#pragma once

#include "app/process.h"

#define ALL_ROLES (ROLE_DISTRIBUTOR | ROLE_INGESTER | ROLE_QUERIER | ROLE_STORE_GATEWAY | ROLE_COMPACTOR)
#define LOG_ROLES (ROLE_DISTRIBUTOR | ROLE_INGESTER | ROLE_QUERIER) /* who has to do with the log and the rings of ingesters */
#define BUCKET_ROLES (ROLE_INGESTER | ROLE_QUERIER | ROLE_STORE_GATEWAY | ROLE_COMPACTOR)
#define DISK_ROLES (ROLE_INGESTER | ROLE_STORE_GATEWAY | ROLE_COMPACTOR)

struct module {
    const char *name; /* as /services and /ready show it */
    unsigned roles;   /* enum role bits: it is there when the process has one of them */
    bool (*start)(struct process *p, struct err *err);
    void (*stop)(struct process *p); /* also after a start that failed half way */
    bool (*ready)(struct process *p, struct err *ret); /* NULL: as soon as it runs. If not, ret says what is missing */
};

extern const struct module modules[];
extern const size_t n_modules;

/*
 * In the single process: until everything that was acknowledged before the call is in the heads, so that queries and flushes see it. arg: the process.
 */
bool wait_for_log(void *arg, struct ctx *ctx, struct err *err);

/* --- cluster.c --- */

/* The tables of flags of the rings and of gossip. */
void cluster_add_flags(struct process *p);

bool gossip_start(struct process *p, struct err *err);
void gossip_stop(struct process *p);
bool gossip_ready(struct process *p, struct err *ret);
bool instance_ring_start(struct process *p, struct err *err);
void instance_ring_stop(struct process *p);
bool partition_ring_start(struct process *p, struct err *err);
void partition_ring_stop(struct process *p);
bool ingesters_start(struct process *p, struct err *err);
void ingesters_stop(struct process *p);
bool membership_start(struct process *p, struct err *err);
void membership_stop(struct process *p);
bool membership_ready(struct process *p, struct err *ret);
extern const struct http_route ring_page_routes[]; /* of the rings of instances, one row each */
extern const size_t ring_page_routes_n;
/* The pages and endpoints of the rings and of membership. */
void cluster_add_routes(struct process *p);
void cluster_free_routes(struct process *p);

/* --- accepted.c --- */

/* What Mimir's configurations may hold that has no effect here. */
void accepted_add_flags(struct process *p);
/* One line in the log about those that were given. */
void accepted_log(const struct process *p);
/* A component of Mimir that is not here. */
bool accepted_is_other_target(const char *name);

/* --- storage.c --- */

void storage_add_flags(struct process *p);
/* After the flags were parsed and the roles are known. */
bool storage_check_flags(struct process *p, struct err *err);
bool bucket_start(struct process *p, struct err *err);
void bucket_stop(struct process *p);
/* Of the ingesters that were made and not yet started; and when they have stopped. */
bool shipper_open(struct process *p, struct err *err);
void shipper_close(struct process *p);
/* The store-gateway, and its seat in the ring. */
bool gateway_service_start(struct process *p, struct err *err);
void gateway_service_stop(struct process *p);
bool gateway_membership_start(struct process *p, struct err *err);
void gateway_membership_stop(struct process *p);
bool gateway_membership_ready(struct process *p, struct err *ret);
/* p->queryable, out of p->recent and what is in the bucket. */
bool stored_start(struct process *p, struct err *err);
void stored_stop(struct process *p);
bool compactor_service_start(struct process *p, struct err *err);
void compactor_service_stop(struct process *p);
void storage_add_routes(struct process *p);
