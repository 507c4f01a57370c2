/*
 * YAML in and out for the flag set. In: libyaml's event stream, walked with the dotted path at hand, strict. Out: the block tree in
 * the order of registration.
 */
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "base/assert.h"
#include "base/flags_int.h"
#include "base/json.h"

#define YAML_MAX_DEPTH 16
#define YAML_MAX_PATH 512

struct walk {
    struct flag_set *fs;
    const char *file;
    yaml_parser_t parser;
    struct err *err;
};

static bool next_event(struct walk *w, yaml_event_t *ret)
{
    if (yaml_parser_parse(&w->parser, ret))
        return true;
    return err_set(w->err, ERR_CONFIG, "%s:%zu: %s", w->file, w->parser.problem_mark.line + 1,
                   w->parser.problem ? w->parser.problem : "not valid YAML");
}

/* "file:line: before path after". */
static bool fail_at(struct walk *w, const yaml_event_t *ev, const char *before, const char *path, const char *after)
{
    return err_set(w->err, ERR_CONFIG, "%s:%zu: %s%s%s", w->file, ev->start_mark.line + 1, before, path, after);
}

static bool is_null(const yaml_event_t *ev, struct slice text)
{
    return ev->data.scalar.style == YAML_PLAIN_SCALAR_STYLE && (text.n == 0 || slice_eq(text, SL("null")) || slice_eq(text, SL("~")));
}

static const struct flag_accepted *find_accepted(const struct walk *w, const char *path)
{
    return flag_set_find_accepted(w->fs, SL(""), slice_of(path));
}

/* text: what a scalar says; without: a sequence or mapping that holds something. */
static bool check_accepted(struct walk *w, const yaml_event_t *ev, const char *path, const struct flag_accepted *a, struct slice text)
{
    struct err err = ERR_NONE;
    if (text.p ? flag_set_check_accepted(w->fs, a, text, &err) : flag_set_note_accepted(w->fs, a, true, &err))
        return true;
    err_prefix(&err, ": ");
    return fail_at(w, ev, "invalid value for ", path, err.text);
}

static bool set_scalar(struct walk *w, const yaml_event_t *ev, const char *path)
{
    struct flag *f = flag_set_find_yaml(w->fs, slice_of(path));
    struct slice text = slice_make(ev->data.scalar.value, ev->data.scalar.length);
    const struct flag_accepted *a = f ? NULL : find_accepted(w, path);
    if (a)
        return check_accepted(w, ev, path, a, is_null(ev, text) ? slice_of(a->def) : text);
    if (!f)
        return fail_at(w, ev, "field ", path, " not found");
    if (f->source == FLAG_FROM_YAML)
        return fail_at(w, ev, "field ", path, " already set");
    if (is_null(ev, text))
        text = slice_of(f->def->def);
    struct err err = ERR_NONE;
    if (!flag_value_parse(f->def->type, text, f->field, w->fs, &err)) {
        err_prefix(&err, ": ");
        return fail_at(w, ev, "invalid value for ", path, err.text);
    }
    f->source = FLAG_FROM_YAML;
    return true;
}

/* A sequence of scalars for a list flag: joined with commas, the form that the command line has. */
static bool set_sequence(struct walk *w, const yaml_event_t *start, const char *path)
{
    struct flag *f = flag_set_find_yaml(w->fs, slice_of(path));
    const struct flag_accepted *a = f ? NULL : find_accepted(w, path);
    if (!(f ? f->def->type == FLAG_LIST : a && a->type == FLAG_LIST))
        return fail_at(w, start, "field ", path, f || a ? " does not take a list" : " not found");
    struct buf joined;
    buf_init(&joined, 0);
    bool ok = true, done = false;
    for (bool first = true; ok && !done; first = false) {
        yaml_event_t ev;
        if (!(ok = next_event(w, &ev)))
            break;
        done = ev.type == YAML_SEQUENCE_END_EVENT;
        if (ev.type == YAML_SCALAR_EVENT) {
            if (!first)
                buf_putc(&joined, ',');
            buf_put(&joined, ev.data.scalar.value, ev.data.scalar.length);
        } else if (!done) {
            ok = fail_at(w, &ev, "field ", path, ": only plain values are allowed in the list");
        }
        yaml_event_delete(&ev);
    }
    if (ok && a) {
        ok = check_accepted(w, start, path, a, joined.n ? buf_slice(&joined) : SL(""));
    } else if (ok) {
        flag_list_parse(buf_slice(&joined), f->field, w->fs);
        f->source = FLAG_FROM_YAML;
    }
    buf_release(&joined);
    return ok;
}

/* A mapping of scalars for a string flag that holds a JSON object of texts, whose default is "{}". */
static bool set_object(struct walk *w, struct flag *f, const char *path)
{
    struct buf json;
    buf_init(&json, 0);
    buf_putc(&json, '{');
    bool ok = true, done = false;
    for (size_t i = 0; ok && !done; i++) {
        yaml_event_t ev;
        if (!(ok = next_event(w, &ev)))
            break;
        done = ev.type == YAML_MAPPING_END_EVENT;
        if (ev.type == YAML_SCALAR_EVENT) {
            buf_puts(&json, i == 0 ? "" : i % 2 ? ":" : ",");
            json_put_quoted(&json, slice_make(ev.data.scalar.value, ev.data.scalar.length));
        } else if (!done) {
            ok = fail_at(w, &ev, "field ", path, ": only plain values are allowed in the block");
        }
        yaml_event_delete(&ev);
    }
    buf_putc(&json, '}');
    ok = ok && flag_value_parse(f->def->type, buf_slice(&json), f->field, w->fs, w->err);
    f->source = FLAG_FROM_YAML;
    buf_release(&json);
    return ok;
}

/* Passes over whatever stands at the path of an accepted flag; start is its first event, a sequence's or a mapping's. */
static bool skip_tree(struct walk *w, const yaml_event_t *start, const char *path, const struct flag_accepted *a)
{
    size_t n_inside = 0;
    for (int depth = 1; depth > 0;) {
        yaml_event_t ev;
        if (!next_event(w, &ev))
            return false;
        bool begins = ev.type == YAML_SEQUENCE_START_EVENT || ev.type == YAML_MAPPING_START_EVENT;
        bool ends = ev.type == YAML_SEQUENCE_END_EVENT || ev.type == YAML_MAPPING_END_EVENT;
        yaml_event_delete(&ev);
        depth += begins - ends;
        n_inside += !ends;
    }
    return n_inside == 0 || check_accepted(w, start, path, a, (struct slice){NULL, 0});
}

static bool walk_mapping(struct walk *w, const char *path, int depth);

static bool walk_value(struct walk *w, const char *path, int depth)
{
    yaml_event_t ev;
    if (!next_event(w, &ev))
        return false;
    bool ok;
    /* A block of which a room has flags is walked, whatever else of it is accepted. */
    struct flag *f = flag_set_find_yaml(w->fs, slice_of(path));
    const struct flag_accepted *a = flag_set_is_room_block(w->fs, slice_of(path)) ? NULL : find_accepted(w, path);
    if (a && a->type == FLAG_TREE && (ev.type == YAML_SEQUENCE_START_EVENT || ev.type == YAML_MAPPING_START_EVENT))
        ok = skip_tree(w, &ev, path, a);
    else if (ev.type == YAML_MAPPING_START_EVENT && f && f->def->type == FLAG_STRING && strcmp(f->def->def, "{}") == 0)
        ok = set_object(w, f, path);
    else if (ev.type == YAML_SCALAR_EVENT)
        /* "limits:" with nothing under it is an empty block. */
        ok = (ev.data.scalar.length == 0 && flag_set_is_block(w->fs, slice_of(path))) || set_scalar(w, &ev, path);
    else if (ev.type == YAML_SEQUENCE_START_EVENT)
        ok = set_sequence(w, &ev, path);
    else if (ev.type == YAML_MAPPING_START_EVENT && !flag_set_is_block(w->fs, slice_of(path)))
        ok = fail_at(w, &ev, "field ", path,
                     f ? " is a value, not a block" : " not found");
    else if (ev.type == YAML_MAPPING_START_EVENT && depth < YAML_MAX_DEPTH)
        ok = walk_mapping(w, path, depth + 1);
    else
        ok = fail_at(w, &ev, "unexpected YAML construct at ", path, "");
    yaml_event_delete(&ev);
    return ok;
}

static bool walk_mapping(struct walk *w, const char *path, int depth)
{
    for (;;) {
        yaml_event_t ev;
        if (!next_event(w, &ev))
            return false;
        char child[YAML_MAX_PATH];
        bool end = ev.type == YAML_MAPPING_END_EVENT;
        bool ok = end || ev.type == YAML_SCALAR_EVENT;
        if (!ok)
            fail_at(w, &ev, "keys must be plain words, under \"", path, "\"");
        else if (!end && snprintf(child, sizeof(child), "%s%s%s", path, path[0] ? "." : "", (const char *)ev.data.scalar.value) >= YAML_MAX_PATH)
            ok = fail_at(w, &ev, "key too long under \"", path, "\"");
        yaml_event_delete(&ev);
        if (!ok || end)
            return ok;
        if (!walk_value(w, child, depth))
            return false;
    }
}

static bool walk_stream(struct walk *w)
{
    int documents = 0;
    for (;;) {
        yaml_event_t ev;
        if (!next_event(w, &ev))
            return false;
        yaml_event_type_t type = ev.type;
        bool empty = type == YAML_SCALAR_EVENT && ev.data.scalar.length == 0;
        bool ok = true;
        if (type == YAML_DOCUMENT_START_EVENT && ++documents > 1)
            ok = fail_at(w, &ev, "only one YAML document is allowed", "", "");
        else if (type == YAML_MAPPING_START_EVENT)
            ok = walk_mapping(w, "", 0);
        else if ((type == YAML_SCALAR_EVENT && !empty) || type == YAML_SEQUENCE_START_EVENT || type == YAML_ALIAS_EVENT)
            ok = fail_at(w, &ev, "expected a mapping at the top", "", "");
        yaml_event_delete(&ev);
        if (!ok || type == YAML_STREAM_END_EVENT)
            return ok;
    }
}

bool flag_set_parse_yaml(struct flag_set *fs, const char *file, struct slice text, struct err *err)
{
    struct walk w = {.fs = fs, .file = file, .err = err};
    if (!yaml_parser_initialize(&w.parser))
        return err_set(err, ERR_NO_MEMORY, "out of memory reading %s", file);
    /* libyaml asserts on NULL, which an empty file may be. */
    yaml_parser_set_input_string(&w.parser, (const unsigned char *)(text.n ? text.p : ""), text.n);
    bool ok = walk_stream(&w);
    yaml_parser_delete(&w.parser);
    return ok;
}

void flags_expand_env(struct slice text, struct buf *out)
{
    size_t i = 0;
    while (i < text.n) {
        const char *end = i + 1 < text.n && text.p[i] == '$' && text.p[i + 1] == '{'
                              ? memchr(text.p + i, '}', text.n - i)
                              : NULL;
        if (!end) {
            buf_putc(out, text.p[i++]);
            continue;
        }
        struct slice inner = slice_make(text.p + i + 2, (size_t)(end - text.p) - i - 2);
        const char *colon = inner.n ? memchr(inner.p, ':', inner.n) : NULL;
        size_t name_len = colon ? (size_t)(colon - inner.p) : inner.n;
        char name[256];
        snprintf(name, sizeof(name), "%.*s", (int)name_len, inner.p);
        const char *value = getenv(name);
        if (value && *value)
            buf_puts(out, value);
        else if (colon)
            buf_put(out, colon + 1, inner.n - name_len - 1);
        i = (size_t)(end - text.p) + 1;
    }
}

/* --- out ----------------------------------------------------------------------------------------------------------- */

static void put_indent(struct buf *out, int depth)
{
    for (int i = 0; i < depth * 4; i++)
        buf_putc(out, ' ');
}

static void put_value(const struct flag *f, const void *field, int depth, struct buf *out)
{
    const struct flag_list *list = field;
    switch (f->def->type) {
    case FLAG_STRING:
    case FLAG_TREE:
    case FLAG_SECRET: {
        struct buf text;
        buf_init(&text, 0);
        flag_value_print(f->def->type, field, &text);
        json_put_quoted(out, buf_slice(&text));
        buf_release(&text);
        break;
    }
    case FLAG_LIST:
        buf_puts(out, list->n ? "" : "[]");
        for (size_t i = 0; i < list->n; i++) {
            buf_putc(out, '\n');
            put_indent(out, depth + 1);
            buf_puts(out, "- ");
            json_put_quoted(out, slice_of(list->items[i]));
        }
        break;
    default:
        flag_value_print(f->def->type, field, out);
    }
    buf_putc(out, '\n');
}

/* The value as a fresh parse of the default gives it, into storage big enough for any type. */
union any_value {
    struct flag_list list;
    uint64_t u64;
    double f64;
    const char *str;
    bool b;
};

static bool is_default(const struct flag *f, const union any_value *def)
{
    struct buf a, b;
    buf_init(&a, 0);
    buf_init(&b, 0);
    /* A secret prints masked: compare its text. */
    enum flag_type type = f->def->type == FLAG_SECRET ? FLAG_STRING : f->def->type;
    flag_value_print(type, f->field, &a);
    flag_value_print(type, def, &b);
    bool same = slice_eq(buf_slice(&a), buf_slice(&b));
    buf_release(&a);
    buf_release(&b);
    return same;
}

struct dump {
    const struct flag_set *fs;
    enum flag_dump mode;
    struct flag_set *scratch; /* owns parsed defaults */
    bool shown[FLAG_MAX_FLAGS];
    struct buf *out;
};

static bool is_shown(struct dump *d, size_t i, union any_value *ret_default)
{
    const struct flag *f = &d->fs->flags[i];
    if (!f->def->yaml[0])
        return false;
    flag_value_parse(f->def->type, slice_of(f->def->def), ret_default, d->scratch, NULL);
    return d->mode != FLAG_DUMP_DIFF || !is_default(f, ret_default);
}

/* Prints every shown flag under `prefix` (with its dot), sub-blocks where their first flag stands. */
static void dump_block(struct dump *d, struct slice prefix, int depth)
{
    for (size_t i = 0; i < d->fs->n_flags; i++) {
        const struct flag *f = &d->fs->flags[i];
        struct slice yaml = slice_of(f->def->yaml);
        union any_value def;
        if (d->shown[i] || !slice_has_prefix(yaml, prefix) || !is_shown(d, i, &def))
            continue;
        struct slice rest = slice_make(yaml.p + prefix.n, yaml.n - prefix.n);
        const char *dot = memchr(rest.p, '.', rest.n);
        put_indent(d->out, depth);
        if (dot) {
            size_t len = (size_t)(dot - rest.p);
            buf_printf(d->out, "%.*s:\n", (int)len, rest.p);
            dump_block(d, slice_make(yaml.p, prefix.n + len + 1), depth + 1);
            continue;
        }
        d->shown[i] = true;
        buf_printf(d->out, "%.*s: ", SL_FMT(rest));
        put_value(f, d->mode == FLAG_DUMP_DEFAULTS ? &def : f->field, depth, d->out);
    }
}

void flag_set_print_yaml(const struct flag_set *fs, enum flag_dump mode, struct buf *out)
{
    struct dump *d = calloc(1, sizeof(*d));
    ASSERT(d);
    *d = (struct dump){.fs = fs, .mode = mode, .scratch = flag_set_new(), .out = out};
    size_t before = out->n;
    dump_block(d, SL(""), 0);
    if (out->n == before)
        buf_puts(out, "{}\n");
    flag_set_free(d->scratch);
    free(d);
}
