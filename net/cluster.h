/*
 * Cluster validation: members of a cluster mark their requests with its label, and a server of another cluster refuses
 * them (HTTP header X-Cluster, gRPC metadata x-cluster). Both servers use this; texts and metric are Mimir's.
 */
#pragma once

#include <stdbool.h>

#include "base/err.h"
#include "base/slice.h"
#include "net/http.h"

/* Whether these flags make sense together. protocol: "grpc" or "http"; common may be NULL. */
bool cluster_config_check(const struct http_config *common, const char *protocol, bool enabled, bool soft, struct err *err);
/*
 * Whether a request with this label (p == NULL: it has none) is served. A wrong one is counted and logged; soft: served
 * all the same. False: err is the refusal's text. Any thread.
 */
bool cluster_label_check(const struct http_config *common, const char *protocol, bool soft, struct slice method,
                         struct slice label, struct err *err);
