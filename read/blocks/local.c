/* The store-gateway of this process as a vtable: tests have others. */
#include "read/blocks/blocks.h"

static struct series_set *direct_select(void *gateway, struct ctx *ctx, const struct select_params *p, const struct block_hints *blocks, struct gateway_found *ret_found,
                                        struct err *err)
{
    return gateway_select(gateway, ctx, p, blocks, ret_found, err);
}

static bool direct_names(void *gateway, struct ctx *ctx, const struct select_params *p, const struct block_hints *blocks, struct gateway_found *ret_found,
                         const struct slice **ret, size_t *ret_n, struct err *err)
{
    return gateway_label_names(gateway, ctx, p, blocks, ret_found, ret, ret_n, err);
}

static bool direct_values(void *gateway, struct ctx *ctx, struct slice name, const struct select_params *p, const struct block_hints *blocks,
                          struct gateway_found *ret_found, const struct slice **ret, size_t *ret_n, struct err *err)
{
    return gateway_label_values(gateway, ctx, name, p, blocks, ret_found, ret, ret_n, err);
}

struct local_gateway local_gateway_of(struct gateway *g)
{
    static const struct local_gateway_ops ops = {direct_select, direct_names, direct_values};
    return (struct local_gateway){gateway_id(g), &ops, g};
}
