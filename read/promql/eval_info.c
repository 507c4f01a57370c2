/* info(): enriching series with the labels of info metrics. */
#include "read/promql/engine_int.h"

struct op *plan_info(struct env *env, const struct node *call, const struct grid *g)
{
    (void)call, (void)g;
    env_fail(env, ERR_EXECUTION, "function info is not supported yet");
    return NULL;
}
