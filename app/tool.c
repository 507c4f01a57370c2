#include "app/tool.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "app/process.h"
#include "base/assert.h"
#include "base/metrics.h"
#include "read/promql/ast.h"

static int report(bool ok, const struct err *err)
{
    if (!ok)
        fprintf(stderr, "brunn: %s\n", err->text);
    return ok ? EXIT_SUCCESS : EXIT_FAILURE;
}

/* reference DIR: the pages of docs/reference/. */
static int tool_reference(char **args)
{
    static struct process process;
    struct err err = ERR_NONE;
    char *no_args[] = {"brunn", NULL};
    bool ok = process_configure(&process, 1, no_args, &err) && reference_write(&process, args[0], &err);
    process_release(&process);
    return report(ok, &err);
}

/* promql format EXPR: as /api/v1/format_query. */
static int tool_promql_format(char **args)
{
    struct arena arena;
    arena_init(&arena, 0);
    struct err err = ERR_NONE;
    struct node *n = promql_parse(slice_of(args[0]), NULL, &arena, &err);
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

static const struct {
    const char *words[2];
    const char *args;
    int n_args;
    int (*run)(char **args);
    const char *help;
} tools[] = {
    {{"reference", NULL}, "DIR", 1, tool_reference, "write the reference pages into DIR"},
    {{"promql", "format"}, "EXPR", 1, tool_promql_format, "print an expression as format_query does"},
};

int tool_main(int argc, char **argv)
{
    for (size_t i = 0; i < ARRAY_LEN(tools); i++) {
        int n_words = tools[i].words[1] ? 2 : 1;
        if (argc != 1 + n_words + tools[i].n_args || strcmp(argv[1], tools[i].words[0]) != 0 ||
            (n_words == 2 && strcmp(argv[2], tools[i].words[1]) != 0))
            continue;
        return tools[i].run(argv + 1 + n_words);
    }
    fprintf(stderr, "usage:\n");
    for (size_t i = 0; i < ARRAY_LEN(tools); i++)
        fprintf(stderr, "  brunn tool %s%s%s %s\n      %s\n", tools[i].words[0], tools[i].words[1] ? " " : "",
                tools[i].words[1] ? tools[i].words[1] : "", tools[i].args, tools[i].help);
    return 2;
}
