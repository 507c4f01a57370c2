/*
 * Flags that are accepted without effect (base/flags.h): found by name like any other, checked by type, and remembered when they were given something else than
 * their default.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/flags_int.h"

/* A value of any type, for a text that is only checked and compared. */
union any_value {
    struct flag_list list;
    const char *str;
    uint64_t u64;
    double f64;
    bool b;
};

void flag_set_accept(struct flag_set *fs, const struct flag_accepted *table, size_t n)
{
    ASSERT(!fs->accepted);
    fs->accepted = table;
    fs->n_accepted = n;
    fs->accepted_differs = calloc(n, sizeof(fs->accepted_differs[0]));
    ASSERT(fs->accepted_differs);
}

/* "a.*" is every name that begins with "a.". */
static bool matches(const char *pattern, struct slice name)
{
    size_t n = strlen(pattern);
    if (n == 0 || pattern[n - 1] != '*')
        return slice_eq(slice_make(pattern, n), name);
    return name.n >= n && memcmp(pattern, name.p, n - 1) == 0;
}

const struct flag_accepted *flag_set_find_accepted(const struct flag_set *fs, struct slice flag, struct slice yaml)
{
    for (size_t i = 0; i < fs->n_accepted; i++) {
        const struct flag_accepted *a = &fs->accepted[i];
        if ((flag.n && matches(a->flag, flag)) || (yaml.n && matches(a->yaml, yaml)))
            return a;
    }
    return NULL;
}

static bool is_default(struct flag_set *fs, const struct flag_accepted *a, const union any_value *v)
{
    union any_value def;
    if (!flag_value_parse(a->type, slice_of(a->def), &def, fs, NULL))
        return false;
    struct buf x, y;
    buf_init(&x, 0);
    buf_init(&y, 0);
    flag_value_print(a->type, v, &x);
    flag_value_print(a->type, &def, &y);
    bool same = slice_eq(buf_slice(&x), buf_slice(&y));
    buf_release(&x);
    buf_release(&y);
    return same;
}

bool flag_set_note_accepted(struct flag_set *fs, const struct flag_accepted *a, bool differs, struct err *err)
{
    /* Of a pattern's many names one is enough. */
    bool *noted = &fs->accepted_differs[a - fs->accepted];
    *noted = differs || (a->type == FLAG_TREE && *noted);
    if (!differs || !a->default_only)
        return true;
    return err_set(err, ERR_CONFIG, "only its default %s%s%s is accepted: %s", a->def[0] ? "(" : "", a->def[0] ? a->def : "(empty)", a->def[0] ? ")" : "", a->why);
}

bool flag_set_check_accepted(struct flag_set *fs, const struct flag_accepted *a, struct slice text, struct err *err)
{
    union any_value v;
    return flag_value_parse(a->type, text, &v, fs, err) && flag_set_note_accepted(fs, a, !is_default(fs, a, &v), err);
}

size_t flag_set_print_ignored(const struct flag_set *fs, struct buf *out)
{
    size_t n = 0;
    for (size_t i = 0; i < fs->n_accepted; i++) {
        const struct flag_accepted *a = &fs->accepted[i];
        if (fs->accepted_differs[i])
            buf_printf(out, "%s%s%s", n++ ? ", " : "", a->flag[0] ? "-" : "", a->flag[0] ? a->flag : a->yaml);
    }
    return n;
}

static int by_name(const void *a, const void *b)
{
    return strcmp((*(const struct flag_accepted *const *)a)->flag, (*(const struct flag_accepted *const *)b)->flag);
}

void flag_set_print_accepted_help(const struct flag_set *fs, struct buf *out)
{
    const struct flag_accepted **sorted = calloc(fs->n_accepted + 1, sizeof(sorted[0]));
    ASSERT(sorted);
    size_t n = 0;
    for (size_t i = 0; i < fs->n_accepted; i++)
        if (fs->accepted[i].flag[0])
            sorted[n++] = &fs->accepted[i];
    qsort(sorted, n, sizeof(sorted[0]), by_name);
    for (size_t i = 0; i < n; i++) {
        bool is_bool = sorted[i]->type == FLAG_BOOL;
        buf_printf(out, "  -%s%s%s\n    \taccepted without effect%s: %s\n", sorted[i]->flag, is_bool ? "" : " ",
                   is_bool ? "" : flag_type_name(sorted[i]->type), sorted[i]->default_only ? ", with its default only" : "", sorted[i]->why);
    }
    free(sorted);
}

void flag_set_print_accepted_markdown(const struct flag_set *fs, struct buf *out)
{
    buf_puts(out, "| Flag | YAML | Type | Default | Accepted | Why it has no effect |\n|---|---|---|---|---|---|\n");
    for (size_t i = 0; i < fs->n_accepted; i++) {
        const struct flag_accepted *a = &fs->accepted[i];
        const char *flag_tick = a->flag[0] ? "`" : "", *yaml_tick = a->yaml[0] ? "`" : "", *def_tick = a->def[0] ? "`" : "";
        buf_printf(out, "| %s%s%s%s | %s%s%s | %s | %s%s%s | %s | %s |\n", flag_tick, a->flag[0] ? "-" : "", a->flag, flag_tick, yaml_tick, a->yaml, yaml_tick,
                   flag_type_name(a->type), def_tick, a->def, def_tick, a->default_only ? "default only" : "any value", a->why);
    }
}
