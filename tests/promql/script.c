/* The commands of a script, line by line. */
#include <stdio.h>
#include <string.h>

#include "promqltest_int.h"

bool next_line(struct script *s, struct slice *ret)
{
    if (s->rest.n == 0)
        return false;
    const char *nl = memchr(s->rest.p, '\n', s->rest.n);
    size_t n = nl ? (size_t)(nl - s->rest.p) : s->rest.n;
    *ret = trim(slice_make(s->rest.p, n));
    s->rest = slice_make(s->rest.p + n + (nl != NULL), s->rest.n - n - (nl != NULL));
    s->line++;
    if (ret->n && ret->p[0] == '#')
        ret->n = 0;
    return true;
}

bool script_error(const struct runner *r, int line, const char *why)
{
    fprintf(stderr, "%s:%d: %s\n", r->file, line, why);
    return false;
}

/* Gives the samples of a line the start timestamps of the line before it. */
static bool join_starts(const struct sequence *starts, struct sequence *seq)
{
    if (!labels_eq(starts->labels, seq->labels) || starts->n != seq->n)
        return false;
    for (size_t i = 0; i < seq->n; i++) {
        seq->items[i].started = starts->items[i].started;
        seq->items[i].start_ms = starts->items[i].start_ms;
    }
    return true;
}

bool run_load(struct runner *r, struct script *s, struct slice args, bool nhcb)
{
    int64_t step;
    struct slice line;
    struct sequence *seqs = arena_array(&r->arena, 4096, sizeof(*seqs));
    size_t n = 0;
    struct sequence starts;
    bool started = false; /* the line before was one of start timestamps */
    if (!parse_time(args, &step))
        return script_error(r, s->line, "bad step");
    while (next_line(s, &line) && line.n) {
        const char *why = "too many series";
        struct sequence next;
        bool is_starts;
        if (!parse_starts(line, &r->arena, &next, &is_starts, &why))
            return script_error(r, s->line, why);
        if (is_starts) {
            if (started)
                return script_error(r, s->line, "start timestamps without samples");
            starts = next;
            started = true;
            continue;
        }
        if (n == 4096 || !parse_sequence(line, &r->arena, &seqs[n++], &why))
            return script_error(r, s->line, why);
        if (started && !join_starts(&starts, &seqs[n - 1]))
            return script_error(r, s->line, "these are not the samples of the start timestamps before them");
        started = false;
    }
    if (started)
        return script_error(r, s->line, "start timestamps without samples");
    if (nhcb)
        add_nhcb(&seqs, &n, &r->arena);
    store_load(r->store, seqs, n, step);
    return true;
}

static void add_message(struct check *c, struct slice text)
{
    c->given = true;
    text = trim(text);
    bool regex = slice_has_prefix(text, SL("regex:"));
    if (!regex && !slice_has_prefix(text, SL("msg:")))
        return;
    size_t skip = regex ? 6 : 4;
    if (c->n_msgs == 8)
        return;
    c->is_regex[c->n_msgs] = regex;
    c->msgs[c->n_msgs++] = trim(slice_make(text.p + skip, text.n - skip));
}

static bool unquote(struct slice s, struct arena *a, struct slice *ret)
{
    /* A label value is quoted the same way. */
    struct buf b;
    struct labels l;
    buf_init(&b, 65536);
    buf_printf(&b, "{x=%.*s}", SL_FMT(s));
    struct slice text = arena_dup(a, buf_slice(&b));
    buf_release(&b);
    if (!parse_labels(&text, a, &l))
        return false;
    *ret = labels_get(l, SL("x"));
    return true;
}

static bool parse_expect(struct runner *r, struct eval *e, struct slice line)
{
    static const char *const names[EXPECTATIONS] = {"fail", "warn", "info", "no_warn", "no_info"};
    (void)next_word(&line);
    struct slice kind = next_word(&line);
    if (slice_eq(kind, SL("ordered"))) {
        e->ordered = true;
        return true;
    }
    if (slice_eq(kind, SL("string"))) {
        e->has_string = true;
        return unquote(line, &r->arena, &e->string);
    }
    if (slice_eq(kind, SL("range"))) { /* vector from A to B step C */
        (void)next_word(&line), (void)next_word(&line);
        struct slice from = next_word(&line);
        (void)next_word(&line);
        struct slice to = next_word(&line);
        (void)next_word(&line);
        e->range_vector = true;
        return parse_time(from, &e->vec_start_ms) && parse_time(to, &e->vec_end_ms) && parse_time(line, &e->vec_step_ms);
    }
    for (int i = 0; i < EXPECTATIONS; i++) {
        struct slice name = slice_of(names[i]);
        if (slice_eq(kind, name) || (slice_has_prefix(kind, name) && kind.n > name.n && kind.p[name.n] == ':')) {
            if (kind.n > name.n) /* "fail msg:x" may be written without the blank */
                line = slice_make(kind.p + name.n + 1, (size_t)(line.p + line.n - kind.p) - name.n - 1);
            add_message(&e->checks[i], line);
            return true;
        }
    }
    return false;
}

bool parse_expected(struct runner *r, struct script *s, struct eval *e)
{
    struct slice line;
    e->expected = arena_array(&r->arena, 512, sizeof(*e->expected));
    while (next_line(s, &line) && line.n) {
        const char *why = "bad expect line";
        if (slice_has_prefix(line, SL("expect "))) {
            if (!parse_expect(r, e, line))
                return script_error(r, s->line, why);
        } else if (slice_has_prefix(line, SL("expected_fail_message"))) {
            e->checks[EXPECT_FAIL].msgs[0] = trim(slice_make(line.p + 21, line.n - 21));
            e->checks[EXPECT_FAIL].n_msgs = 1;
        } else if (slice_has_prefix(line, SL("expected_fail_regexp"))) {
            e->checks[EXPECT_FAIL].msgs[0] = trim(slice_make(line.p + 20, line.n - 20));
            e->checks[EXPECT_FAIL].is_regex[0] = true;
            e->checks[EXPECT_FAIL].n_msgs = 1;
        } else if (parse_number(line, &e->scalar)) {
            e->has_scalar = true;
        } else if (e->n_expected == 512 || !parse_sequence(line, &r->arena, &e->expected[e->n_expected++], &why)) {
            return script_error(r, s->line, why);
        }
    }
    return true;
}

bool parse_eval(struct runner *r, struct script *s, struct slice word, struct slice line, struct eval *e)
{
    *e = (struct eval){0};
    e->checks[EXPECT_FAIL].given = slice_has_suffix(word, SL("_fail"));
    e->checks[EXPECT_WARN].given = slice_has_suffix(word, SL("_warn"));
    e->checks[EXPECT_INFO].given = slice_has_suffix(word, SL("_info"));
    e->ordered = slice_has_suffix(word, SL("_ordered"));
    struct slice mode = next_word(&line);
    e->range = slice_eq(mode, SL("range"));
    (void)next_word(&line); /* at, from */
    bool ok = parse_time(next_word(&line), &e->start_ms);
    e->end_ms = e->start_ms;
    if (e->range) {
        (void)next_word(&line); /* to */
        ok &= parse_time(next_word(&line), &e->end_ms);
        (void)next_word(&line); /* step */
        ok &= parse_time(next_word(&line), &e->step_ms);
    }
    e->expr = line;
    return ok || script_error(r, s->line, "bad eval line");
}
