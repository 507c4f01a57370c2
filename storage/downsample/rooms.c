/* Which rooms a tenant has, by one delimited listing; names of rooms, and what an index says of a room's blocks. */
#include "storage/downsample/downsample_int.h"

#include <string.h>

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

struct slice downsample_tenant_of(struct slice place)
{
    const char *slash = memchr(place.p, '/', place.n);
    return slash ? slice_make(place.p, (size_t)(slash - place.p)) : place;
}

bool downsample_room_of(struct slice place, enum downsample_resolution *ret_r, enum downsample_aggregate *ret_a)
{
    struct slice tenant = downsample_tenant_of(place), folder = SL("/" DOWNSAMPLE_FOLDER);
    struct slice rest = slice_make(place.p + tenant.n, place.n - tenant.n);
    return tenant.n && slice_has_prefix(rest, folder) && downsample_room_parse(slice_make(rest.p + folder.n, rest.n - folder.n), ret_r, ret_a);
}

bool downsample_lists(struct slice names, struct slice name)
{
    for (const char *p = names.p, *end = names.p + names.n; p < end;) {
        const char *comma = memchr(p, ',', (size_t)(end - p));
        const char *stop = comma ? comma : end;
        if (p < stop && slice_eq(slice_make(p, (size_t)(stop - p)), name))
            return true;
        p = stop + 1;
    }
    return false;
}

bool downsample_is_all_of(const struct index_block *aggregate, struct slice metric_name)
{
    for (size_t i = 0; i < aggregate->n_labels; i++) {
        const struct block_label *l = &aggregate->labels[i];
        if (!slice_eq(l->name, SL(DOWNSAMPLE_HISTOGRAMS_LABEL)))
            continue;
        return slice_eq(l->value, SL(",")) || (metric_name.n && !slice_eq(l->value, SL(DOWNSAMPLE_ANY)) && !downsample_lists(l->value, metric_name));
    }
    return false;
}
