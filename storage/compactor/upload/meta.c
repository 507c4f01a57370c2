/*
 * The meta.json that a client begins its upload with. It is read as a tree first, since what is asked of it goes beyond what makes a meta.json, with Mimir's
 * words for each fault; then what is ours is set, and storage/block reads the rest of it.
 */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "storage/compactor/upload/upload_int.h"

static const char malformed[] = "malformed request body";

bool upload_path_valid(struct slice path)
{
    struct slice folder = SL("chunks/");
    if (slice_eq(path, SL("index")))
        return true;
    if (!slice_has_prefix(path, folder) || path.n != folder.n + 6)
        return false;
    for (size_t i = folder.n; i < path.n; i++)
        if (path.p[i] < '0' || path.p[i] > '9')
            return false;
    return true;
}

/* --- labels and files ---------------------------------------------------------------------------------------------------- */

/* "<1-based>_of_<n>" */
static bool is_shard(const char *text)
{
    char *end;
    if (text[0] < '0' || text[0] > '9')
        return false;
    unsigned long long shard = strtoull(text, &end, 10);
    if (strncmp(end, "_of_", 4) != 0 || end[4] < '0' || end[4] > '9')
        return false;
    unsigned long long n = strtoull(end + 4, &end, 10);
    return *end == 0 && shard >= 1 && shard <= n;
}

/* ret_keep: whether the label stays. */
static bool check_label(const char *name, const json_t *value, bool *ret_keep, struct err *err)
{
    static const char *const dropped[] = {"__org_id__", "__ingester_id__", "__shard_id__"};
    const char *text = json_string_value(value);
    if (!text)
        return err_set(err, ERR_BAD_DATA, malformed);
    *ret_keep = true;
    for (size_t i = 0; i < ARRAY_LEN(dropped); i++)
        if (strcmp(name, dropped[i]) == 0)
            *ret_keep = false;
    if (!*ret_keep)
        return true;
    if (strcmp(name, BLOCK_LABEL_OUT_OF_ORDER) == 0 && strcmp(text, "true") == 0)
        return true; /* keeps a block of a Mimir that has it apart from others, as there */
    if (strcmp(name, BLOCK_LABEL_SHARD) != 0)
        return err_set(err, ERR_BAD_DATA, "unsupported external label: %.200s", name);
    *ret_keep = text[0] != 0;
    return !*ret_keep || is_shard(text) || err_set(err, ERR_BAD_DATA, "invalid " BLOCK_LABEL_SHARD " external label: \"%.200s\"", text);
}

static bool clean_labels(json_t *thanos, struct err *err)
{
    json_t *labels = json_object_get(thanos, "labels"), *value;
    const char *name;
    void *next;
    if (labels && !json_is_null(labels) && !json_is_object(labels))
        return err_set(err, ERR_BAD_DATA, malformed);
    json_object_foreach_safe(labels, next, name, value)
    {
        bool keep = true;
        if (!check_label(name, value, &keep, err))
            return false;
        if (!keep)
            json_object_del(labels, name);
    }
    return true;
}

static bool check_files(const json_t *thanos, struct err *err)
{
    const json_t *files = json_object_get(thanos, "files"), *f;
    size_t i;
    if (files && !json_is_null(files) && !json_is_array(files))
        return err_set(err, ERR_BAD_DATA, malformed);
    json_array_foreach(files, i, f)
    {
        const json_t *size = json_object_get(f, "size_bytes");
        const char *path = json_string_value(json_object_get(f, "rel_path"));
        if (!json_is_object(f) || (size && !json_is_integer(size)))
            return err_set(err, ERR_BAD_DATA, malformed);
        path = path ? path : "";
        if (strcmp(path, BUCKET_META) == 0)
            continue;
        if (!upload_path_valid(slice_of(path)))
            return err_set(err, ERR_BAD_DATA, "file with invalid path: %.200s", path);
        if (json_integer_value(size) <= 0)
            return err_set(err, ERR_BAD_DATA, "file with invalid size: %s", path);
    }
    return true;
}

/* --- times ------------------------------------------------------------------------------------------------------------------ */

static void time_text(int64_t ms, char ret[CLOCK_RFC3339_MAX])
{
    clock_rfc3339(ms / 1000, (int32_t)(ms % 1000) * 1000000, CLOCK_AS_NEEDED, ret);
}

static bool integer_of(const json_t *o, const char *name, int64_t *ret)
{
    const json_t *v = json_object_get(o, name);
    *ret = json_integer_value(v);
    return !v || json_is_null(v) || json_is_integer(v);
}

static bool check_version_and_times(const json_t *root, struct err *err)
{
    int64_t version, min_t, max_t, now_ms = clock_wall_ms();
    char from[CLOCK_RFC3339_MAX], to[CLOCK_RFC3339_MAX];
    if (!integer_of(root, "version", &version) || !integer_of(root, "minTime", &min_t) || !integer_of(root, "maxTime", &max_t))
        return err_set(err, ERR_BAD_DATA, malformed);
    if (version != 1)
        return err_set(err, ERR_BAD_DATA, "version must be 1");
    if (min_t < 0 || max_t < min_t)
        return err_set(err, ERR_BAD_DATA, "invalid minTime/maxTime: minTime=%lld, maxTime=%lld", (long long)min_t, (long long)max_t);
    if (max_t <= now_ms)
        return true;
    time_text(min_t, from);
    time_text(max_t, to);
    return err_set(err, ERR_BAD_DATA, "block time(s) greater than the present: minTime=%lld (%s), maxTime=%lld (%s)", (long long)min_t, from,
                   (long long)max_t, to);
}

/* What may be wrong with a good meta.json, for this tenant: 422. */
static bool check_range(struct upload *u, struct slice tenant, const struct block_meta *m, struct err *err)
{
    const struct flag_list *ranges = &u->parts.cfg->block_ranges;
    int64_t retention_ms = limits_of(u->parts.limits, tenant)->compactor_blocks_retention_period, range_ms = 0;
    char text[CLOCK_RFC3339_MAX];
    for (size_t i = 0; i < ranges->n; i++) {
        int64_t ms;
        if (duration_parse(slice_of(ranges->items[i]), &ms, NULL))
            range_ms = MAX(range_ms, ms);
    }
    if (range_ms > 0 && m->max_t > m->min_t - m->min_t % range_ms + range_ms) {
        struct buf range = {.max = 64};
        duration_print_prometheus(range_ms, &range);
        err_set(err, ERR_BAD_DATA, "block time range crosses boundary of configured compactor time range (%s)", buf_cstr(&range));
        buf_release(&range);
        return false;
    }
    if (retention_ms <= 0 || m->max_t >= clock_wall_ms() - retention_ms)
        return true;
    time_text(m->max_t, text);
    return err_set(err, ERR_BAD_DATA, "block max time (%s) older than retention period", text);
}

bool upload_size_allowed(struct upload *u, struct slice tenant, const struct block_meta *meta, struct err *err)
{
    int64_t max_bytes = limits_of(u->parts.limits, tenant)->compactor_block_upload_max_block_size_bytes;
    uint64_t bytes = 0;
    bool fits = true;
    for (size_t i = 0; i < meta->n_files; i++)
        fits = fits && !__builtin_add_overflow(bytes, meta->files[i].size, &bytes);
    return max_bytes <= 0 || (fits && bytes <= (uint64_t)max_bytes) ||
           err_set(err, ERR_BAD_DATA, "block exceeds the maximum block size limit of %lld bytes", (long long)max_bytes);
}

/* --- all of it ------------------------------------------------------------------------------------------------------------ */

/* Beyond what the tree's readers checked. */
static bool check_tree(json_t *root, struct err *err)
{
    json_t *thanos = json_object_get(root, "thanos");
    int64_t resolution;
    if (thanos && !json_is_null(thanos) && !json_is_object(thanos))
        return err_set(err, ERR_BAD_DATA, malformed);
    if (!integer_of(json_object_get(thanos, "downsample"), "resolution", &resolution))
        return err_set(err, ERR_BAD_DATA, malformed);
    if (resolution > 0)
        return err_set(err, ERR_BAD_DATA, "block contains downsampled data");
    return clean_labels(thanos, err) && check_files(thanos, err) && check_version_and_times(root, err);
}

/* The block's own, which storage/block asks of every meta.json. */
static void set_own(json_t *root, const struct ulid *block)
{
    json_t *compaction = json_object_get(root, "compaction");
    json_object_set_new(root, "ulid", json_string(block->text));
    json_object_del(compaction, "parents");
    json_object_del(compaction, "sources");
}

static bool read_tree(json_t *root, struct arena *arena, struct block_meta *ret, struct err *err)
{
    char *text = json_dumps(root, JSON_COMPACT);
    struct err why = ERR_NONE;
    bool good = text && block_meta_decode(slice_of(text), arena, ret, &why);
    free(text);
    return good || err_set(err, ERR_BAD_DATA, malformed);
}

bool upload_meta_clean(struct upload *u, struct slice tenant, const struct ulid *block, struct slice json, struct arena *arena, struct block_meta *ret,
                       int *ret_status, struct err *err)
{
    *ret_status = 400;
    json_t *root = json_loadb(json.p, json.n, 0, NULL);
    bool good = json_is_object(root) || err_set(err, ERR_BAD_DATA, malformed);
    struct ulid *sources = ARENA_ARRAY(arena, struct ulid, 1);
    good = good && check_tree(root, err);
    if (good) {
        set_own(root, block);
        good = sources && read_tree(root, arena, ret, err);
    }
    json_decref(root);
    if (!good)
        return false;
    sources[0] = *block;
    ret->sources = sources;
    ret->n_sources = 1;
    ret->parents = NULL;
    ret->n_parents = 0;
    ret->level = MAX(ret->level, 1u);
    ret->has_thanos = true;
    ret->labels_null = false;
    ret->source = SL("upload");
    if (!upload_size_allowed(u, tenant, ret, err))
        return false;
    *ret_status = 422;
    return check_range(u, tenant, ret, err);
}

void upload_meta_encode(const struct block_meta *meta, struct buf *out)
{
    struct buf wide = {.max = UPLOAD_META_MAX_BYTES * 8};
    bool in_string = false;
    block_meta_encode(meta, &wide);
    for (size_t i = 0; i < wide.n; i++) {
        char c = wide.p[i];
        if (in_string && c == '\\' && i + 1 < wide.n) {
            buf_putc(out, c);
            c = wide.p[++i];
        } else if (c == '"') {
            in_string = !in_string;
        } else if (!in_string && (c == ' ' || c == '\t' || c == '\n')) {
            continue;
        }
        buf_putc(out, c);
    }
    buf_putc(out, '\n');
    out->failed |= wide.failed;
    buf_release(&wide);
}
