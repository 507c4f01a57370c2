/* The in-process twin: every question is admitted as a call is, and then put to the ingester's own queryable. */
#include "ingest/service/service_int.h"

/*
 * In one process our own patience is not the query's deadline: that a strong read was not served in time is an internal
 * error, as Mimir's queriers make it one.
 */
static bool admit(struct queryable *q, struct ctx *ctx, struct queryable **ret, struct err *err)
{
    struct ingest_service *s = CONTAINER_OF(q, struct ingest_service, queryable);
    *ret = ingester_queryable(s->ing);
    if (service_admit(s, ctx, err))
        return true;
    if (err && err->code == ERR_TIMEOUT && ctx_check(ctx, NULL))
        err->code = ERR_INTERNAL;
    return false;
}

static struct series_set *q_select(struct queryable *q, struct ctx *ctx, const struct select_params *p, struct err *err)
{
    struct queryable *own;
    return admit(q, ctx, &own, err) ? own->ops->select(own, ctx, p, err) : NULL;
}

static bool q_label_names(struct queryable *q, struct ctx *ctx, const struct select_params *p, const struct slice **ret,
                          size_t *ret_n, struct err *err)
{
    struct queryable *own;
    return admit(q, ctx, &own, err) && own->ops->label_names(own, ctx, p, ret, ret_n, err);
}

static bool q_label_values(struct queryable *q, struct ctx *ctx, struct slice name, const struct select_params *p,
                           const struct slice **ret, size_t *ret_n, struct err *err)
{
    struct queryable *own;
    return admit(q, ctx, &own, err) && own->ops->label_values(own, ctx, name, p, ret, ret_n, err);
}

static bool q_metadata(struct queryable *q, struct ctx *ctx, const struct metric_metadata **ret, size_t *ret_n,
                       struct err *err)
{
    struct queryable *own;
    return admit(q, ctx, &own, err) && own->ops->metadata(own, ctx, ret, ret_n, err);
}

static bool q_exemplars(struct queryable *q, struct ctx *ctx, const struct select_params *p,
                        const struct exemplar_series **ret, size_t *ret_n, struct err *err)
{
    struct queryable *own;
    return admit(q, ctx, &own, err) && own->ops->exemplars(own, ctx, p, ret, ret_n, err);
}

void service_queryable_init(struct ingest_service *s)
{
    static const struct queryable_ops ops = {
        .select = q_select, .label_names = q_label_names, .label_values = q_label_values, .metadata = q_metadata, .exemplars = q_exemplars};
    s->queryable.ops = &ops;
}
