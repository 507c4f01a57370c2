/* Private to ring/: stores on servers. */
#pragma once

#include "ring/config.h"

/* flag as in struct kv_user. Settings are copied. NULL and ERR_CONFIG. */
struct kv *kv_etcd_new(const struct kv_config *cfg, const char *flag, struct err *err);
struct kv *kv_consul_new(const struct kv_config *cfg, const char *flag, struct err *err);
