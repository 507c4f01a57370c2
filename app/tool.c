#include "app/tool.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "app/process.h"
#include "app/tools/tools.h"
#include "base/assert.h"
#include "base/metrics.h"
#include "read/promql/engine.h"

static int report(bool ok, const struct err *err)
{
    if (!ok)
        fprintf(stderr, "brunn: %s\n", err->text);
    return ok ? EXIT_SUCCESS : EXIT_FAILURE;
}

/* reference DIR: the pages of docs/reference/. */
static int tool_reference(int argc, char **argv)
{
    (void)argc;
    static struct process process;
    struct err err = ERR_NONE;
    char *no_args[] = {"brunn", NULL};
    bool ok = process_configure(&process, 1, no_args, &err) && reference_write(&process, argv[1], &err);
    process_release(&process);
    return report(ok, &err);
}

/* promql format EXPR: as /api/v1/format_query. */
static int tool_promql_format(int argc, char **argv)
{
    (void)argc;
    struct arena arena;
    arena_init(&arena, 0);
    struct err err = ERR_NONE;
    struct node *n = promql_parse(slice_of(argv[1]), NULL, &arena, &err);
    if (n) {
        struct buf out;
        buf_init(&out, 0);
        promql_pretty(n, &out);
        puts(buf_cstr(&out));
        buf_release(&out);
        promql_release(n);
    }
    arena_release(&arena);
    return report(n != NULL, &err);
}

/* promql explain EXPR: as for a range of an hour, a step a minute. */
static int tool_promql_explain(int argc, char **argv)
{
    (void)argc;
    const struct engine_config cfg = {.lookback_delta_ms = 300000, .default_evaluation_interval_ms = 60000};
    struct engine_query q = {.text = slice_of(argv[1]), .start_ms = 0, .end_ms = 3600000, .step_ms = 60000};
    struct arena arena;
    struct buf out;
    struct err err = ERR_NONE;
    arena_init(&arena, 0);
    buf_init(&out, 0);
    struct ctx ctx = {.arena = &arena};
    struct node *n = promql_parse(q.text, NULL, &arena, &err);
    q.expr = n;
    bool ok = n && promql_resolve_durations(n, q.step_ms, q.end_ms - q.start_ms, &err) && engine_explain(&cfg, &ctx, &q, &out, &err);
    if (ok)
        fputs(buf_cstr(&out), stdout);
    if (n)
        promql_release(n);
    buf_release(&out);
    arena_release(&arena);
    return report(ok, &err);
}

#define ANY_ARGS (-1)

/* run gets the tool's last word as argv[0], and what follows. */
static const struct {
    const char *words[2];
    const char *args;
    int n_args;
    int (*run)(int argc, char **argv);
    const char *help;
} tools[] = {
    {{"reference", NULL}, "DIR", 1, tool_reference, "write the reference pages into DIR"},
    {{"promql", "format"}, "EXPR", 1, tool_promql_format, "print an expression as format_query does"},
    {{"promql", "explain"}, "EXPR", 1, tool_promql_explain, "print how an expression would be evaluated over an hour"},
    {{"block", "ls"}, "DIR...", ANY_ARGS, tool_block, "list blocks; a DIR is a block or a folder of blocks"},
    {{"block", "verify"}, "DIR...", ANY_ARGS, tool_block, "read everything in blocks and check it"},
    {{"block", "dump"}, "[-match=SELECTOR] [-min-time=MS] [-max-time=MS] DIR...", ANY_ARGS, tool_block, "print the samples of blocks, as promtool tsdb dump does"},
    {{"block", "cat-index"}, "DIR...", ANY_ARGS, tool_block, "print the series and chunks that the index of a block has"},
    {{"bucket", "ls"}, "[-config.file=FILE] [-blocks-storage.*=...] [-tenant=ID]", ANY_ARGS, tool_bucket, "list the tenants of a bucket, or the blocks of one"},
    {{"bucket", "verify"}, "[-config.file=FILE] [-blocks-storage.*=...] [-tenant=ID] [-deep] [-tmp-dir=DIR]", ANY_ARGS, tool_bucket,
     "check that bucket indexes, marks and blocks agree; -deep reads everything"},
    {{"backfill", NULL}, "[-output=DIR] [-label=NAME=VALUE,...] [-tenant=ID -blocks-storage.*=...] FILE", ANY_ARGS, tool_backfill,
     "make blocks out of OpenMetrics text, in a folder or in a bucket"},
};

int tool_main(int argc, char **argv)
{
    for (size_t i = 0; i < ARRAY_LEN(tools); i++) {
        int n_words = tools[i].words[1] ? 2 : 1;
        if (argc < 1 + n_words || (tools[i].n_args != ANY_ARGS && argc != 1 + n_words + tools[i].n_args) || strcmp(argv[1], tools[i].words[0]) != 0 ||
            (n_words == 2 && strcmp(argv[2], tools[i].words[1]) != 0))
            continue;
        return tools[i].run(argc - n_words, argv + n_words);
    }
    fprintf(stderr, "usage:\n");
    for (size_t i = 0; i < ARRAY_LEN(tools); i++)
        fprintf(stderr, "  brunn tool %s%s%s %s\n      %s\n", tools[i].words[0], tools[i].words[1] ? " " : "",
                tools[i].words[1] ? tools[i].words[1] : "", tools[i].args, tools[i].help);
    return 2;
}
