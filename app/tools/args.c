#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "app/tools/tools_int.h"
#include "base/assert.h"

static const struct flag_def bucket_flags[] = {
#define OBJSTORE_FLAG "blocks-storage."
#define OBJSTORE_YAML ""
#define FLAG(field, type, flag, yaml, def, cls, help) FLAG_ROW(objstore_config, field, type, flag, "", def, cls, help)
#include "storage/objstore/objstore_flags.def"
#undef FLAG
};

void tool_args_init(struct tool_args *a)
{
    *a = (struct tool_args){.flags = flag_set_new()};
}

void tool_args_release(struct tool_args *a)
{
    flag_set_free(a->flags);
    free(a->words);
}

static void tell_usage(const struct tool_args *a, const char *usage)
{
    struct buf out;
    buf_init(&out, 0);
    flag_set_print_help(a->flags, false, &out);
    fprintf(stderr, "usage: brunn tool %s\n%s", usage, buf_cstr(&out));
    buf_release(&out);
}

bool tool_args_parse(struct tool_args *a, int argc, char **argv, const char *usage)
{
    char **flags = malloc(((size_t)argc + 1) * sizeof(*flags));
    a->words = malloc(((size_t)argc + 1) * sizeof(*a->words));
    ASSERT(flags && a->words);
    int n_flags = 0;
    flags[n_flags++] = argv[0];
    for (int i = 1; i < argc; i++) {
        if (argv[i][0] == '-' && argv[i][1])
            flags[n_flags++] = argv[i];
        else
            a->words[a->n_words++] = argv[i];
    }
    struct err err = ERR_NONE;
    bool good = flag_set_parse(a->flags, n_flags, flags, &err);
    free(flags);
    if (!good) {
        fprintf(stderr, "brunn: %s\n", err.text);
        tell_usage(a, usage);
    }
    return good;
}

int tool_fail(const struct err *err)
{
    fprintf(stderr, "brunn: %s\n", err->text);
    return TOOL_FAILED;
}

void tool_bucket_flags(struct tool_args *a, struct objstore_config *cfg)
{
    flag_set_add(a->flags, "Bucket", bucket_flags, ARRAY_LEN(bucket_flags), cfg);
}

struct objstore *tool_bucket_open(const struct objstore_config *cfg, struct err *err)
{
    struct stat st;
    bool folder = strcmp(cfg->backend, "filesystem") == 0;
    if (folder && !cfg->filesystem_dir[0]) {
        err_set(err, ERR_CONFIG, "-blocks-storage.filesystem.dir: which folder is the bucket?");
        return NULL;
    }
    if (folder && stat(cfg->filesystem_dir, &st) != 0) { /* the store would make it */
        err_errno(err, ERR_CONFIG, errno, "-blocks-storage.filesystem.dir: %s", cfg->filesystem_dir);
        return NULL;
    }
    return objstore_open(cfg, "blocks-storage.", "", err);
}
