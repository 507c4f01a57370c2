/* brunn tool bucket: ls; verify is a file of its own. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "app/tools/tools.h"
#include "app/tools/tools_int.h"
#include "base/assert.h"

struct ls_config {
    const char *tenant;
};

static const struct flag_def ls_flags[] = {
    {FLAG_STRING, "tenant", "", "", FLAG_CLASS_BASIC, "List the blocks of this tenant, out of its bucket index.", offsetof(struct ls_config, tenant)},
};

static const struct ctx no_hurry = {.deadline_ms = 0};

/* --- tenants ------------------------------------------------------------------------------------------------------------------- */

static void print_tenant(const struct bucket_tenant *t, size_t n_folders, const struct bucket_index *index)
{
    int64_t min_t = INT64_MAX, max_t = INT64_MIN;
    char min_text[TIME_TEXT_MAX] = "-", max_text[TIME_TEXT_MAX] = "-", updated[TIME_TEXT_MAX] = "-";
    for (size_t i = 0; index && i < index->n_blocks; i++) {
        min_t = MIN(min_t, index->blocks[i].min_t);
        max_t = MAX(max_t, index->blocks[i].max_t);
    }
    if (index && index->n_blocks) {
        time_text(min_t, min_text);
        time_text(max_t, max_text);
    }
    if (index)
        time_text(index->updated_at_s * 1000, updated);
    printf("%-32.*s  %7zu  %7zu  %6zu  %-24s  %-24s  %-20s  %s\n", SL_FMT(t->id), n_folders, index ? index->n_blocks : 0, index ? index->n_deletions : 0,
           min_text, max_text, updated, t->to_be_deleted ? "to be deleted" : "");
}

static bool list_tenant(struct objstore *s, const struct bucket_tenant *t, struct err *err)
{
    struct arena arena;
    struct bucket_index index;
    const struct ulid *blocks;
    struct err why = ERR_NONE;
    size_t n;
    arena_init(&arena, 0);
    bool good = bucket_blocks(s, &no_hurry, t->id, &arena, &blocks, &n, err);
    bool indexed = good && bucket_index_read(s, &no_hurry, t->id, &arena, &index, &why);
    if (good && !indexed && why.code != ERR_NOT_FOUND)
        fprintf(stderr, "brunn: tenant %.*s: %s\n", SL_FMT(t->id), why.text);
    if (good)
        print_tenant(t, n, indexed ? &index : NULL);
    arena_release(&arena);
    return good;
}

static bool list_tenants(struct objstore *s, struct err *err)
{
    struct arena arena;
    const struct bucket_tenant *tenants;
    size_t n;
    arena_init(&arena, 0);
    bool good = bucket_tenants_marked(s, &no_hurry, &arena, &tenants, &n, err);
    if (good)
        printf("%-32s  %7s  %7s  %6s  %-24s  %-24s  %-20s\n", "TENANT", "FOLDERS", "INDEXED", "MARKED", "MIN TIME", "MAX TIME", "INDEX UPDATED");
    for (size_t i = 0; good && i < n; i++)
        good = list_tenant(s, &tenants[i], err);
    arena_release(&arena);
    return good;
}

/* --- blocks of one ------------------------------------------------------------------------------------------------------------- */

static void print_index_block(const struct bucket_index *index, const struct index_block *b)
{
    char min_text[TIME_TEXT_MAX], max_text[TIME_TEXT_MAX], uploaded[TIME_TEXT_MAX];
    printf("%-26s  %-24s  %-24s  %5u  %-10.*s  %-8.*s  %-20s  %s%s\n", b->id.text, time_text(b->min_t, min_text), time_text(b->max_t, max_text), b->level,
           SL_FMT(b->source), SL_FMT(b->shard), time_text(b->uploaded_at_s * 1000, uploaded), b->out_of_order ? "out-of-order " : "",
           bucket_index_deletion(index, &b->id) ? "to be deleted" : "");
}

static bool list_blocks(struct objstore *s, struct slice tenant, struct err *err)
{
    struct arena arena;
    struct bucket_index index;
    arena_init(&arena, 0);
    bool good = bucket_index_read(s, &no_hurry, tenant, &arena, &index, err);
    if (good)
        printf("%-26s  %-24s  %-24s  %5s  %-10s  %-8s  %-20s\n", "BLOCK", "MIN TIME", "MAX TIME", "LEVEL", "SOURCE", "SHARD", "UPLOADED");
    for (size_t i = 0; good && i < index.n_blocks; i++)
        print_index_block(&index, &index.blocks[i]);
    arena_release(&arena);
    return good;
}

static int bucket_ls(int argc, char **argv)
{
    static const char usage[] = "bucket ls [-config.file=FILE] [-blocks-storage.*=...] [-tenant=ID]";
    struct tool_args args;
    struct ls_config cfg;
    struct objstore_config bucket;
    struct err err = ERR_NONE;
    int status = TOOL_USAGE;
    tool_args_init(&args);
    flag_set_add(args.flags, "List", ls_flags, ARRAY_LEN(ls_flags), &cfg);
    tool_bucket_flags(&args, &bucket);
    if (tool_args_parse(&args, argc, argv, usage) && args.n_words == 0) {
        struct objstore *s = tool_bucket_open(&bucket, &err);
        bool good = s && (cfg.tenant[0] ? list_blocks(s, slice_of(cfg.tenant), &err) : list_tenants(s, &err));
        status = good ? TOOL_OK : tool_fail(&err);
        objstore_free(s);
    } else if (args.n_words) {
        fprintf(stderr, "usage: brunn tool %s\n", usage);
    }
    tool_args_release(&args);
    return status;
}

int tool_bucket(int argc, char **argv)
{
    if (argc > 0 && strcmp(argv[0], "ls") == 0)
        return bucket_ls(argc, argv);
    if (argc > 0 && strcmp(argv[0], "verify") == 0)
        return bucket_verify(argc, argv);
    fprintf(stderr, "usage: brunn tool bucket ls|verify [-config.file=FILE] [-blocks-storage.*=...]\n");
    return TOOL_USAGE;
}
