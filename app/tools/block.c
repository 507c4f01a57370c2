/* brunn tool block: ls and verify; dump and cat-index are files of their own. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "app/tools/tools.h"
#include "app/tools/tools_int.h"
#include "base/assert.h"
#include "storage/block/block.h"

/* A block that is wrong does not end the list. */
struct tally {
    size_t n_blocks, n_faults;
};

static bool list_one(const char *dir, void *arg, struct err *err)
{
    (void)err;
    struct tally *t = arg;
    struct arena arena;
    struct block_meta m;
    struct err why = ERR_NONE;
    uint64_t bytes;
    arena_init(&arena, 0);
    t->n_blocks++;
    if (read_block_folder(dir, &arena, &m, &bytes, &why)) {
        print_block(&m, bytes);
    } else {
        t->n_faults++;
        fprintf(stderr, "brunn: %s\n", why.text);
    }
    arena_release(&arena);
    return true;
}

static bool verify_one(const char *dir, void *arg, struct err *err)
{
    (void)err;
    struct tally *t = arg;
    struct err why = ERR_NONE;
    struct block *b = block_open(dir, &why);
    t->n_blocks++;
    if (b && block_verify(b, &why)) {
        const struct block_stats *s = &block_meta_of(b)->stats;
        printf("%s: good: %" PRIu64 " series, %" PRIu64 " chunks, %" PRIu64 " samples\n", dir, s->series, s->chunks, s->samples);
    } else {
        t->n_faults++;
        printf("%s: BAD: %s\n", dir, why.text);
    }
    block_close(b);
    return true;
}

static int run(int argc, char **argv, const char *usage, block_folder_fn *fn, bool with_head)
{
    struct tool_args args;
    struct tally t = {0};
    struct err err = ERR_NONE;
    int status = TOOL_USAGE;
    tool_args_init(&args);
    if (tool_args_parse(&args, argc, argv, usage) && args.n_words > 0) {
        if (with_head)
            print_blocks_head();
        status = !each_block_folder(args.words, args.n_words, fn, &t, &err) ? tool_fail(&err) : t.n_faults ? TOOL_FAILED : TOOL_OK;
    } else if (args.n_words == 0) {
        fprintf(stderr, "usage: brunn tool %s\n", usage);
    }
    tool_args_release(&args);
    return status;
}

static int block_ls(int argc, char **argv)
{
    return run(argc, argv, "block ls DIR...", list_one, true);
}

static int block_verify_all(int argc, char **argv)
{
    return run(argc, argv, "block verify DIR...", verify_one, false);
}

int tool_block(int argc, char **argv)
{
    static const struct {
        const char *word;
        int (*run)(int, char **);
    } tools[] = {{"ls", block_ls}, {"verify", block_verify_all}, {"dump", block_dump}, {"cat-index", block_cat_index}};
    for (size_t i = 0; argc > 0 && i < ARRAY_LEN(tools); i++)
        if (strcmp(argv[0], tools[i].word) == 0)
            return tools[i].run(argc, argv);
    fprintf(stderr, "usage: brunn tool block ls|verify|dump|cat-index DIR...\n");
    return TOOL_USAGE;
}
