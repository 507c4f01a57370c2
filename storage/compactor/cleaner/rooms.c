/*
 * Downsampled blocks: each aggregate of each resolution lies in a room below the tenant's folder that is laid out as a tenant is (storage/downsample), with an index,
 * marks and blocks of its own. So it is cleaned as a tenant is, after the tenant itself, with its own retention period.
 */
#include "storage/compactor/cleaner/cleaner_int.h"
#include "storage/downsample/downsample.h"

static bool clean_room(struct tenant_turn *t, enum downsample_resolution r, enum downsample_aggregate a, struct err *err)
{
    struct bucket_name name = downsample_room(t->tenant, r, a);
    int64_t retention_ms = downsample_retention_ms(limits_of(t->c->parts.limits, t->tenant), r);
    struct tenant_turn room = {
        .c = t->c, .ctx = t->ctx, .tenant = bucket_name_slice(&name), .user = t->user, .is_room = true, .retention_ms = retention_ms, .now_s = t->now_s};
    arena_init(&room.arena, CLEANER_TURN_BYTES);
    bool good = cleaner_clean(&room, err);
    arena_release(&room.arena);
    return good || err_prefix(err, "%s: ", name.text);
}

bool cleaner_clean_rooms(struct tenant_turn *t, struct err *err)
{
    struct downsample_rooms rooms;
    bool good = true;
    if (!downsample_rooms_list(t->c->parts.bucket, t->ctx, t->tenant, &rooms, err))
        return false;
    for (unsigned r = 0; r < DOWNSAMPLE_RESOLUTIONS; r++)
        for (unsigned a = 0; a < DOWNSAMPLE_AGGREGATES; a++)
            if (rooms.there[r][a] && !clean_room(t, r, a, good ? err : NULL))
                good = false; /* the others are cleaned all the same */
    return good;
}

bool cleaner_delete_rooms(struct tenant_turn *t, struct err *err)
{
    struct downsample_rooms rooms;
    if (!downsample_rooms_list(t->c->parts.bucket, t->ctx, t->tenant, &rooms, err))
        return false;
    for (unsigned r = 0; r < DOWNSAMPLE_RESOLUTIONS; r++)
        for (unsigned a = 0; a < DOWNSAMPLE_AGGREGATES; a++) {
            struct bucket_name room = downsample_room(t->tenant, r, a), index = bucket_tenant_file(bucket_name_slice(&room), BUCKET_INDEX);
            if (rooms.there[r][a] && !objstore_remove(t->c->parts.bucket, t->ctx, bucket_name_slice(&index), err))
                return false;
        }
    return rooms.n == 0 || cleaner_remove_folder(t, DOWNSAMPLE_FOLDER, err);
}
