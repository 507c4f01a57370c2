/*
 * How fresh an answer must be: headers of the request, else the tenant's limit, become tags of the ctx, which travel to the ingesters.
 *
 * A request that asks for nothing carries no tags. What cannot be read is passed over, as Mimir passes it over.
 */
#include "log/read_consistency.h"

#include "read/api/api_int.h"

static struct slice header(const struct call *c, const char *name)
{
    return http_header(c->req, name);
}

/* One of the two constants: what a client wrote stays here. */
static bool add_level(struct call *c)
{
    enum read_consistency level = READ_EVENTUAL;
    bool asked = read_consistency_parse(header(c, READ_LEVEL_HEADER), &level);
    if (!asked && limits_reads(c->limits) == LIMITS_READ_STRONG) {
        asked = true;
        level = READ_STRONG;
    }
    return !asked || ctx_tag_add(&c->ctx, SL(READ_LEVEL_TAG), level == READ_STRONG ? SL("strong") : SL("eventual"));
}

static bool add_offsets(struct call *c)
{
    struct slice text = header(c, READ_OFFSETS_HEADER);
    return text.n == 0 || ctx_tag_add(&c->ctx, SL(READ_OFFSETS_TAG), text);
}

static bool add_max_delay(struct call *c)
{
    struct slice text = header(c, READ_MAX_DELAY_HEADER);
    int64_t ms;
    bool readable = text.n && duration_parse(text, &ms, NULL) && ms > 0;
    return !readable || ctx_tag_add(&c->ctx, SL(READ_MAX_DELAY_TAG), text);
}

bool add_consistency(struct call *c)
{
    return (add_level(c) && add_offsets(c) && add_max_delay(c)) || err_set(&c->err, ERR_MAX_QUERY_MEMORY, "out of memory for the request");
}
