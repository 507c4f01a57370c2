/* Tenant ids: the one parser of X-Scope-OrgID, for every path. */
#pragma once

#include <stdbool.h>

#include "base/err.h"
#include "base/slice.h"

#define TENANT_ID_MAX 150

/*
 * One tenant id out of the header: "a", "a|a" (merged), "a:key=value" (metadata is cut off and ignored). Refused:
 * absent or empty ("no org id"), too long, ".", "..", "__mimir_cluster", characters outside [0-9a-zA-Z!_.*'()-],
 * several ids (ERR_TOO_MANY_TENANTS), ids that come out empty ("|", ":k=v"). Texts as in docs/mimir-http.md 1.1 and
 * docs/differences.md. The result points into header.
 */
bool tenant_parse(struct slice header, struct slice *ret_tenant, struct err *err);
bool tenant_id_valid(struct slice id, struct err *err);
