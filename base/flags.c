/* The flag set: registration, command line, help and reference (base/flags.h). The YAML side is flags_yaml.c. */
#include "base/flags_int.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"

#define CONFIG_FILE_MAX_BYTES ((size_t)16 << 20)

struct flag_set *flag_set_new(void)
{
    struct flag_set *fs = calloc(1, sizeof(*fs));
    ASSERT(fs);
    arena_init(&fs->arena, 0);
    return fs;
}

void flag_set_free(struct flag_set *fs)
{
    if (!fs)
        return;
    arena_release(&fs->arena);
    free(fs->accepted_differs);
    free(fs);
}

struct flag *flag_set_find_flag(struct flag_set *fs, struct slice name)
{
    for (size_t i = 0; i < fs->n_flags; i++)
        if (fs->flags[i].def->flag[0] && slice_eq(slice_of(fs->flags[i].def->flag), name))
            return &fs->flags[i];
    return NULL;
}

struct flag *flag_set_find_yaml(struct flag_set *fs, struct slice path)
{
    for (size_t i = 0; i < fs->n_flags; i++)
        if (fs->flags[i].def->yaml[0] && slice_eq(slice_of(fs->flags[i].def->yaml), path))
            return &fs->flags[i];
    return NULL;
}

static bool is_within(struct slice yaml, struct slice block)
{
    return yaml.n > block.n && slice_has_prefix(yaml, block) && yaml.p[block.n] == '.';
}

bool flag_set_is_room_block(const struct flag_set *fs, struct slice path)
{
    for (size_t i = 0; i < fs->n_flags; i++) {
        struct slice yaml = slice_of(fs->flags[i].def->yaml);
        if (is_within(yaml, path))
            return true;
    }
    return false;
}

bool flag_set_is_block(const struct flag_set *fs, struct slice path)
{
    if (flag_set_is_room_block(fs, path))
        return true;
    for (size_t i = 0; i < fs->n_accepted; i++)
        if (is_within(slice_of(fs->accepted[i].yaml), path))
            return true;
    return false;
}

void flag_set_add(struct flag_set *fs, const char *room, const struct flag_def *defs, size_t n, void *config)
{
    ASSERT(fs->n_rooms < FLAG_MAX_ROOMS && fs->n_flags + n <= FLAG_MAX_FLAGS);
    fs->rooms[fs->n_rooms++] = (struct flag_room){room, fs->n_flags, n};
    for (size_t i = 0; i < n; i++) {
        const struct flag_def *d = &defs[i];
        ASSERT(!flag_set_find_flag(fs, slice_of(d->flag)) && !flag_set_find_yaml(fs, slice_of(d->yaml)));
        struct flag f = {d, (char *)config + d->offset, FLAG_FROM_DEFAULT};
        struct err err = ERR_NONE;
        if (!flag_value_parse(d->type, slice_of(d->def), f.field, fs, &err)) {
            fprintf(stderr, "default of -%s: %s\n", d->flag, err.text);
            ASSERT(false);
        }
        fs->flags[fs->n_flags++] = f;
    }
}

/* One word of the command line, split; value.p == NULL when it has none of its own. */
struct word {
    struct slice name;
    struct slice value;
};

static bool split_word(const char *arg, struct word *ret, struct err *err)
{
    size_t dashes = arg[0] == '-' ? (arg[1] == '-' ? 2 : 1) : 0;
    if (dashes == 0 || arg[dashes] == '\0')
        return err_set(err, ERR_CONFIG, "unexpected argument \"%s\": flags start with '-'", arg);
    const char *name = arg + dashes;
    const char *eq = strchr(name, '=');
    ret->name = eq ? slice_make(name, (size_t)(eq - name)) : slice_of(name);
    ret->value = eq ? slice_of(eq + 1) : (struct slice){NULL, 0};
    return true;
}

/* One of the two is there. */
static bool set_from_word(struct flag_set *fs, struct flag *f, const struct flag_accepted *a, struct word w, struct err *err)
{
    if (f ? !flag_value_parse(f->def->type, w.value, f->field, fs, err) : !flag_set_check_accepted(fs, a, w.value, err))
        return err_prefix(err, "invalid value for flag -%.*s: ", SL_FMT(w.name));
    if (f)
        f->source = FLAG_FROM_COMMAND_LINE;
    return true;
}

/* May the next word be the value of this one? Of a flag of unknown type: unless it is a flag itself. */
static bool takes_word(const struct flag *f, const struct flag_accepted *a, const char *next)
{
    if (a && a->type == FLAG_TREE)
        return next && (next[0] != '-' || (next[1] >= '0' && next[1] <= '9'));
    return next && (f ? f->def->type : a->type) != FLAG_BOOL;
}

bool flag_set_wants_word(struct flag_set *fs, const char *word)
{
    struct word w;
    if (!split_word(word, &w, NULL) || w.value.p)
        return false;
    const struct flag *f = flag_set_find_flag(fs, w.name);
    return f && f->def->type != FLAG_BOOL;
}

static bool parse_words(struct flag_set *fs, int argc, char **argv, struct err *err)
{
    for (int i = 1; i < argc; i++) {
        struct word w;
        if (!split_word(argv[i], &w, err))
            return false;
        struct flag *f = flag_set_find_flag(fs, w.name);
        const struct flag_accepted *a = f ? NULL : flag_set_find_accepted(fs, w.name, SL(""));
        if (!f && !a)
            return err_set(err, ERR_CONFIG, "unknown flag -%.*s (see -help)", SL_FMT(w.name));
        if (!w.value.p && takes_word(f, a, i + 1 < argc ? argv[i + 1] : NULL))
            w.value = slice_of(argv[++i]);
        else if (!w.value.p && ((f ? f->def->type : a->type) == FLAG_BOOL || (a && a->type == FLAG_TREE)))
            w.value = SL("true");
        if (!w.value.p)
            return err_set(err, ERR_CONFIG, "flag -%.*s needs a value", SL_FMT(w.name));
        if (!set_from_word(fs, f, a, w, err))
            return false;
    }
    return true;
}

static bool read_file(const char *path, struct buf *out, struct err *err)
{
    FILE *f = fopen(path, "re");
    if (!f)
        return err_errno(err, ERR_CONFIG, errno, "reading configuration file %s", path);
    size_t got = 1;
    while (got && buf_reserve(out, 65536)) {
        got = fread(out->p + out->n, 1, 65536, f);
        out->n += got;
    }
    bool ok = !ferror(f) && !out->failed;
    int errnum = ferror(f) ? errno : EFBIG;
    fclose(f);
    return ok ? true : err_errno(err, ERR_CONFIG, errnum, "reading configuration file %s", path);
}

static bool parse_file(struct flag_set *fs, const char *path, bool expand_env, struct err *err)
{
    struct buf raw, expanded;
    buf_init(&raw, CONFIG_FILE_MAX_BYTES);
    buf_init(&expanded, CONFIG_FILE_MAX_BYTES);
    bool ok = read_file(path, &raw, err);
    if (ok && expand_env)
        flags_expand_env(buf_slice(&raw), &expanded);
    if (ok)
        ok = flag_set_parse_yaml(fs, path, buf_slice(expand_env ? &expanded : &raw), err);
    buf_release(&raw);
    buf_release(&expanded);
    return ok;
}

bool flag_set_parse(struct flag_set *fs, int argc, char **argv, struct err *err)
{
    /* The command line is read first, to find the file, and then set again over what the file said. */
    if (!parse_words(fs, argc, argv, err))
        return false;
    struct flag *file = flag_set_find_flag(fs, SL("config.file"));
    struct flag *expand = flag_set_find_flag(fs, SL("config.expand-env"));
    if (!file || **(const char **)file->field == '\0')
        return true;
    return parse_file(fs, *(const char **)file->field, expand && *(bool *)expand->field, err) &&
           parse_words(fs, argc, argv, err);
}

/* Strings and the items of lists belong to the set, so a value is copied as it is. */
static void copy_value(struct flag *to, const struct flag *from)
{
    static const size_t sizes[] = {
        [FLAG_STRING] = sizeof(const char *), [FLAG_SECRET] = sizeof(const char *), [FLAG_BOOL] = sizeof(bool),
        [FLAG_INT] = sizeof(int64_t),         [FLAG_UINT64] = sizeof(uint64_t),     [FLAG_DOUBLE] = sizeof(double),
        [FLAG_DURATION] = sizeof(int64_t),    [FLAG_BYTES] = sizeof(uint64_t),      [FLAG_LIST] = sizeof(struct flag_list),
        [FLAG_TREE] = sizeof(const char *),
    };
    ASSERT(to->def->type == from->def->type);
    memcpy(to->field, from->field, sizes[to->def->type]);
    to->source = from->source;
}

void flag_set_inherit(struct flag_set *fs, const char *from, const char *to)
{
    for (size_t i = 0; i < fs->n_flags; i++) {
        const struct flag *f = &fs->flags[i];
        if (f->source == FLAG_FROM_DEFAULT || !slice_has_prefix(slice_of(f->def->flag), slice_of(from)))
            continue;
        char name[256];
        snprintf(name, sizeof(name), "%s%s", to, f->def->flag + strlen(from));
        struct flag *own = flag_set_find_flag(fs, slice_of(name));
        if (own && own->source == FLAG_FROM_DEFAULT)
            copy_value(own, f);
    }
}

/* --- help and reference -------------------------------------------------------------------------------------------- */

static const char *const type_names[] = {
    [FLAG_STRING] = "string", [FLAG_SECRET] = "string",     [FLAG_BOOL] = "boolean",
    [FLAG_INT] = "int",       [FLAG_UINT64] = "uint",       [FLAG_DOUBLE] = "float",
    [FLAG_DURATION] = "duration", [FLAG_BYTES] = "bytes",   [FLAG_LIST] = "comma-separated list of strings",
    [FLAG_TREE] = "any",
};

const char *flag_type_name(enum flag_type type)
{
    return type_names[type];
}

static const char *const class_names[] = {
    [FLAG_CLASS_BASIC] = "basic", [FLAG_CLASS_ADVANCED] = "advanced", [FLAG_CLASS_EXPERIMENTAL] = "experimental"};

static int by_flag_name(const void *a, const void *b)
{
    return strcmp((*(const struct flag *const *)a)->def->flag, (*(const struct flag *const *)b)->def->flag);
}

void flag_set_print_help(const struct flag_set *fs, bool all, struct buf *out)
{
    const struct flag *sorted[FLAG_MAX_FLAGS];
    size_t n = 0;
    for (size_t i = 0; i < fs->n_flags; i++)
        if (fs->flags[i].def->flag[0] && (all || fs->flags[i].def->cls == FLAG_CLASS_BASIC))
            sorted[n++] = &fs->flags[i];
    qsort(sorted, n, sizeof(sorted[0]), by_flag_name);
    for (size_t i = 0; i < n; i++) {
        const struct flag_def *d = sorted[i]->def;
        buf_printf(out, "  -%s%s%s\n    \t%s%s", d->flag, d->type == FLAG_BOOL ? "" : " ", d->type == FLAG_BOOL ? "" : type_names[d->type],
                   d->cls == FLAG_CLASS_EXPERIMENTAL ? "[experimental] " : "", d->help);
        if (d->def[0])
            buf_printf(out, " (default %s)", d->def);
        buf_putc(out, '\n');
    }
    if (all)
        flag_set_print_accepted_help(fs, out);
}

/* A table cell: '|' would end it. */
static void put_cell(struct buf *out, const char *text)
{
    for (; *text; text++) {
        if (*text == '|')
            buf_putc(out, '\\');
        buf_putc(out, *text);
    }
}

void flag_set_print_markdown(const struct flag_set *fs, struct buf *out)
{
    for (size_t r = 0; r < fs->n_rooms; r++) {
        const struct flag_room *room = &fs->rooms[r];
        buf_printf(out, "\n## %s\n\n| Flag | YAML | Type | Default | Class | What it does |\n|---|---|---|---|---|---|\n", room->name);
        for (size_t i = room->first; i < room->first + room->n; i++) {
            const struct flag_def *d = fs->flags[i].def;
            const char *tick = d->yaml[0] ? "`" : "";
            buf_printf(out, "| %s%s%s | %s%s%s | %s | %s%s%s | %s | ", d->flag[0] ? "`-" : "", d->flag, d->flag[0] ? "`" : "", tick,
                       d->yaml, tick, type_names[d->type], d->def[0] ? "`" : "", d->def, d->def[0] ? "`" : "", class_names[d->cls]);
            put_cell(out, d->help);
            buf_puts(out, " |\n");
        }
    }
}
