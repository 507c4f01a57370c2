#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "app/tools/tools_int.h"
#include "base/assert.h"

#define BUCKET_FLAGS "blocks-storage."
#define COMMON_BUCKET_FLAGS "common.storage."

static const struct flag_def bucket_flags[] = {
#define FLAG(...) FLAG_ROW(objstore_config, __VA_ARGS__)
#define OBJSTORE_FLAG BUCKET_FLAGS
#define OBJSTORE_YAML "blocks_storage."
#include "storage/objstore/objstore_flags.def"
#undef OBJSTORE_FLAG
#undef OBJSTORE_YAML
};

static const struct flag_def common_bucket_flags[] = {
#define OBJSTORE_FLAG COMMON_BUCKET_FLAGS
#define OBJSTORE_YAML "common.storage."
#include "storage/objstore/objstore_flags.def"
#undef OBJSTORE_FLAG
#undef OBJSTORE_YAML
#undef FLAG
};

static const struct flag_def file_flags[] = {
    {FLAG_STRING, "config.file", "", "", FLAG_CLASS_BASIC, "Configuration file of the server, for its bucket.", offsetof(struct tool_config_file, path)},
    {FLAG_BOOL, "config.expand-env", "", "false", FLAG_CLASS_BASIC, "Replace ${VAR} and ${VAR:default} in it by values of the environment.",
     offsetof(struct tool_config_file, expand_env)},
};

/* The rest of a server's file is the server's to check. */
static const struct flag_accepted rest_of_file[] = {{"", "*", FLAG_TREE, "", false, "of the server only"}};

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
        bool is_flag = argv[i][0] == '-' && argv[i][1];
        if (is_flag)
            flags[n_flags++] = argv[i];
        if (is_flag && i + 1 < argc && flag_set_wants_word(a->flags, argv[i]))
            flags[n_flags++] = argv[++i];
        else if (!is_flag)
            a->words[a->n_words++] = argv[i];
    }
    struct err err = ERR_NONE;
    bool good = flag_set_parse(a->flags, n_flags, flags, &err);
    free(flags);
    flag_set_inherit(a->flags, COMMON_BUCKET_FLAGS, BUCKET_FLAGS);
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
    flag_set_add(a->flags, "Configuration", file_flags, ARRAY_LEN(file_flags), &a->file);
    flag_set_add(a->flags, "Bucket", bucket_flags, ARRAY_LEN(bucket_flags), cfg);
    flag_set_add(a->flags, "Bucket in common", common_bucket_flags, ARRAY_LEN(common_bucket_flags), &a->common_bucket);
    flag_set_accept(a->flags, rest_of_file, ARRAY_LEN(rest_of_file));
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
    return objstore_open(cfg, BUCKET_FLAGS, "", err);
}
