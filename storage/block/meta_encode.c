/*
 * meta.json as Mimir writes it: Go's encoding/json with a tab for indentation and HTML escaping, keys in the order of Go's structs, zero values left out where
 * Go's tags say omitempty. A local block (no thanos part) comes from MarshalIndent, which ends without a newline; a shipped one from an Encoder, which adds it.
 */
#include "storage/block/meta.h"

#include "base/json.h"

struct indented {
    struct buf *out;
    int depth;
    bool empty; /* the object or array at hand has no item yet */
};

static void new_line(struct indented *w)
{
    buf_putc(w->out, '\n');
    for (int i = 0; i < w->depth; i++)
        buf_putc(w->out, '\t');
}

static void item(struct indented *w)
{
    if (!w->empty)
        buf_putc(w->out, ',');
    new_line(w);
    w->empty = false;
}

static void key(struct indented *w, const char *name)
{
    item(w);
    buf_printf(w->out, "\"%s\": ", name);
}

static void begin(struct indented *w, char bracket)
{
    buf_putc(w->out, bracket);
    w->depth++;
    w->empty = true;
}

static void end(struct indented *w, char bracket)
{
    w->depth--;
    if (!w->empty)
        new_line(w);
    buf_putc(w->out, bracket);
    w->empty = false;
}

/* base/json writes strings as Go does without HTML escaping; < > & occur in its output as themselves only. */
static void string(struct indented *w, struct slice s)
{
    struct buf plain = {0};
    struct json j;
    json_init(&j, &plain);
    json_str(&j, s);
    for (size_t i = 0; i < plain.n; i++) {
        char c = plain.p[i];
        if (c == '<' || c == '>' || c == '&')
            buf_printf(w->out, "\\u%04x", (unsigned)c);
        else
            buf_putc(w->out, c);
    }
    w->out->failed |= plain.failed;
    buf_release(&plain);
}

static void key_i64(struct indented *w, const char *name, int64_t v)
{
    key(w, name);
    buf_put_i64(w->out, v);
}

static void key_count(struct indented *w, const char *name, uint64_t v)
{
    if (v == 0)
        return;
    key(w, name);
    buf_put_u64(w->out, v);
}

static void key_true(struct indented *w, const char *name, bool v)
{
    if (!v)
        return;
    key(w, name);
    buf_puts(w->out, "true");
}

static void put_stats(struct indented *w, const struct block_stats *s)
{
    key(w, "stats");
    begin(w, '{');
    key_count(w, "numSamples", s->samples);
    key_count(w, "numFloatSamples", s->float_samples);
    key_count(w, "numHistogramSamples", s->histogram_samples);
    key_count(w, "numSeries", s->series);
    key_count(w, "numChunks", s->chunks);
    key_count(w, "numTombstones", s->tombstones);
    end(w, '}');
}

static void put_ulid(struct indented *w, const struct ulid *u)
{
    string(w, slice_make(u->text, ULID_TEXT_LEN));
}

static void put_parents(struct indented *w, const struct block_meta *m)
{
    if (m->n_parents == 0)
        return;
    key(w, "parents");
    begin(w, '[');
    for (size_t i = 0; i < m->n_parents; i++) {
        item(w);
        begin(w, '{');
        key(w, "ulid");
        put_ulid(w, &m->parents[i].ulid);
        key_i64(w, "minTime", m->parents[i].min_t);
        key_i64(w, "maxTime", m->parents[i].max_t);
        end(w, '}');
    }
    end(w, ']');
}

static void put_compaction(struct indented *w, const struct block_meta *m)
{
    key(w, "compaction");
    begin(w, '{');
    key_i64(w, "level", m->level);
    if (m->n_sources) {
        key(w, "sources");
        begin(w, '[');
        for (size_t i = 0; i < m->n_sources; i++) {
            item(w);
            put_ulid(w, &m->sources[i]);
        }
        end(w, ']');
    }
    key_true(w, "deletable", m->deletable);
    put_parents(w, m);
    key_true(w, "failed", m->failed);
    if (m->n_hints) {
        key(w, "hints");
        begin(w, '[');
        for (size_t i = 0; i < m->n_hints; i++) {
            item(w);
            string(w, m->hints[i]);
        }
        end(w, ']');
    }
    end(w, '}');
}

static void put_segment_files(struct indented *w, const struct block_meta *m)
{
    bool any = false;
    for (size_t i = 0; i < m->n_files; i++) {
        struct slice path = m->files[i].path, folder = SL("chunks/");
        if (!slice_has_prefix(path, folder))
            continue;
        if (!any) {
            key(w, "segment_files");
            begin(w, '[');
            any = true;
        }
        item(w);
        string(w, slice_make(path.p + folder.n, path.n - folder.n));
    }
    if (any)
        end(w, ']');
}

static void put_files(struct indented *w, const struct block_meta *m)
{
    if (m->n_files == 0)
        return;
    key(w, "files");
    begin(w, '[');
    for (size_t i = 0; i < m->n_files; i++) {
        item(w);
        begin(w, '{');
        key(w, "rel_path");
        string(w, m->files[i].path);
        key_count(w, "size_bytes", m->files[i].size);
        end(w, '}');
    }
    end(w, ']');
}

static void put_labels(struct indented *w, const struct block_meta *m)
{
    key(w, "labels");
    if (m->n_labels == 0 && m->labels_null) {
        buf_puts(w->out, "null");
        return;
    }
    begin(w, '{');
    for (size_t i = 0; i < m->n_labels; i++) {
        item(w);
        string(w, m->labels[i].name);
        buf_puts(w->out, ": ");
        string(w, m->labels[i].value);
    }
    end(w, '}');
}

static void put_thanos(struct indented *w, const struct block_meta *m)
{
    key(w, "thanos");
    begin(w, '{');
    put_labels(w, m);
    key(w, "downsample");
    begin(w, '{');
    key_i64(w, "resolution", m->resolution_ms);
    end(w, '}');
    key(w, "source");
    string(w, m->source);
    put_segment_files(w, m);
    put_files(w, m);
    end(w, '}');
}

void block_meta_encode(const struct block_meta *m, struct buf *out)
{
    struct indented w = {.out = out, .empty = true};
    begin(&w, '{');
    key(&w, "ulid");
    put_ulid(&w, &m->ulid);
    key_i64(&w, "minTime", m->min_t);
    key_i64(&w, "maxTime", m->max_t);
    put_stats(&w, &m->stats);
    put_compaction(&w, m);
    key_i64(&w, "version", 1);
    key(&w, "out_of_order");
    buf_puts(out, m->out_of_order ? "true" : "false");
    if (m->has_thanos)
        put_thanos(&w, m);
    end(&w, '}');
    if (m->has_thanos)
        buf_putc(out, '\n');
}
