/* Which rooms a tenant has: one delimited listing. */
#include "storage/downsample/downsample.h"

struct listing {
    size_t prefix_n;
    struct downsample_rooms *rooms;
};

static bool add_room(void *arg, struct slice name, bool is_prefix, const struct objstore_attributes *attributes)
{
    (void)attributes;
    struct listing *l = arg;
    enum downsample_resolution r;
    enum downsample_aggregate a;
    if (!is_prefix || name.n <= l->prefix_n + 1)
        return true;
    if (!downsample_room_parse(slice_make(name.p + l->prefix_n, name.n - l->prefix_n - 1), &r, &a) || l->rooms->there[r][a])
        return true;
    l->rooms->there[r][a] = true;
    l->rooms->n++;
    return true;
}

bool downsample_rooms_list(struct objstore *s, const struct ctx *ctx, struct slice tenant, struct downsample_rooms *ret, struct err *err)
{
    struct bucket_name folder = bucket_tenant_file(tenant, DOWNSAMPLE_FOLDER);
    struct listing l = {.prefix_n = folder.n, .rooms = ret};
    *ret = (struct downsample_rooms){0};
    return objstore_list(s, ctx, bucket_name_slice(&folder), true, add_room, &l, err);
}
