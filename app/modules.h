/* The modules of the process in the order in which they start; what each does is in modules.c and cluster.c. Private to app/. */
#pragma once

#include "app/process.h"

struct module {
    const char *name; /* as /services and /ready show it */
    unsigned roles;   /* enum role bits: it is there when the process has one of them */
    bool (*start)(struct process *p, struct err *err);
    void (*stop)(struct process *p); /* also after a start that failed half way */
    bool (*ready)(struct process *p, struct err *ret); /* NULL: as soon as it runs. If not, ret says what is missing */
};

extern const struct module modules[];
extern const size_t n_modules;

/* --- cluster.c --- */

/* The tables of flags of the rings and of gossip. */
void cluster_add_flags(struct process *p);

bool gossip_start(struct process *p, struct err *err);
void gossip_stop(struct process *p);
bool gossip_ready(struct process *p, struct err *ret);
/* What rings may be kept in. */
struct kv_stores cluster_stores(struct process *p);
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
