/* Private to ring/. */
#pragma once

#include "ring/desc.h"

void ring_instance_init(struct ring_instance *in, struct slice id);
void ring_instance_release(struct ring_instance *in);
/* `to` is an instance or all zero bytes; what it held is freed. */
void ring_instance_copy(struct ring_instance *to, const struct ring_instance *from);
/* Room for n instances in all. */
void ring_desc_reserve(struct ring_desc *d, size_t n);

/* Some instance has it. */
bool ring_desc_has_token(const struct ring_desc *d, uint32_t token);

int ring_compare_u32(const void *a, const void *b);
/* Ascending, without doubles; returns how many are left. */
size_t ring_tokens_normalize(uint32_t *tokens, size_t n);
void *ring_memdup(const void *p, size_t n);
/* time_s is no more than age_ms before now_ms. */
bool ring_time_within(int64_t time_s, int64_t age_ms, int64_t now_ms);
