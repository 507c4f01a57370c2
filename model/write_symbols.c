/*
 * The scan of the symbol form: remote write 2.0 and the log's records of version 2.
 *
 *   WriteRequest   4 symbols | 5 timeseries | 2 source | 1000, 1001 as in 1.0
 *   TimeSeriesRW2  1 labels_refs (name, value, name, value ...) | 2 samples | 3 histograms | 4 exemplars | 5 metadata |
 * 6 created_timestamp Exemplar       1 labels_refs | 2 value | 3 timestamp Metadata       1 type | 3 help_ref | 4
 * unit_ref
 *
 * Everything behind the scan knows one form only, so a series becomes a TimeSeries of 1.0 in the arena, beginning with
 * its labels; a histogram's message is the same in both (field 17 is unknown to 1.0 and harmless) and is not copied
 * before that.
 *
 * Three passes: count and check the top level; note the symbols, which may legally stand behind series that use them;
 * scan the series.
 */
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "model/write_scan_int.h"

static const struct scan_form rw2 = {
    .series = 5,
    .samples = 2,
    .histograms = 3,
    .exemplars = 4,
    .series_message = "TimeSeriesRW2",
    .exemplar_message = "ExemplarRW2",
};

#define COMMON_SYMBOLS_END 64 /* the record's own symbols have references from here on */

static const struct slice common_symbols[] = {
#define SYMBOL(ref, text) [ref] = {text, sizeof(text) - 1},
#include "model/common_symbols.def"
#undef SYMBOL
};

/* A label's entry has three tags and three lengths, nearly always of one byte each. */
#define LABEL_OVERHEAD 6

/* Families seen: a hash table of indexes into req->metadata, + 1. Chains are cut short, since losing a duplicate does
 * no harm and long ones would. */
#define FAMILY_PROBES_MAX 32

struct symbol_scan {
    struct scan scan;
    enum write_symbols form;
    struct slice *symbols;
    size_t n_symbols;
    size_t n_counted_series;
    size_t expanded_bytes; /* labels written out so far */
    struct label *labels;  /* scratch: one series' or exemplar's labels */
    size_t cap_labels;
    size_t cap_metadata;
    uint32_t *families;
    uint32_t families_mask;
};

/* --- references -----------------------------------------------------------------------------------------------------
 */

static bool resolve(const struct symbol_scan *v, uint64_t ref, struct slice *ret)
{
    if (v->form == WRITE_SYMBOLS_RECORD_V2) {
        if (ref < ARRAY_LEN(common_symbols)) {
            *ret = common_symbols[ref];
            return true;
        }
        if (ref < COMMON_SYMBOLS_END)
            return false;
        ref -= COMMON_SYMBOLS_END;
    }
    if (ref >= v->n_symbols)
        return false;
    *ret = v->symbols[ref];
    return true;
}

/* Go reads a uint32: higher bits are lost. */
static bool resolve_field(struct symbol_scan *v, struct proto *r, uint32_t wire, const char *field, const char *what,
                          struct slice *ret)
{
    uint64_t ref;
    if (!proto_varint_field(r, wire, field, &ref))
        return false;
    return resolve(v, (uint32_t)ref, ret) ||
           err_set(v->scan.err, ERR_BAD_DATA, "proto: Remote Write 2.0 invalid %s reference", what);
}

static bool grow_labels(struct symbol_scan *v, size_t n)
{
    if (n <= v->cap_labels)
        return true;
    size_t cap = MAX(n, 2 * v->cap_labels);
    cap = MAX(cap, (size_t)32);
    struct label *p = scan_alloc(&v->scan, cap, sizeof(*p));
    if (!p)
        return false;
    if (v->cap_labels)
        memcpy(p, v->labels, v->cap_labels * sizeof(*p));
    v->labels = p;
    v->cap_labels = cap;
    return true;
}

/* One more reference of a label list: names and values take turns. *n counts references. */
static bool add_ref(struct symbol_scan *v, uint64_t ref, size_t *n)
{
    struct slice s;
    if (!resolve(v, (uint32_t)ref, &s))
        return err_set(v->scan.err, ERR_BAD_DATA, "proto: Remote Write 2.0 invalid label reference");
    if (!grow_labels(v, *n / 2 + 1))
        return false;
    struct label *l = &v->labels[*n / 2];
    if (*n % 2 == 0)
        *l = (struct label){.name = s, .value = {"", 0}};
    else
        l->value = s;
    ++*n;
    return true;
}

/* Field labels_refs, packed or not, adding to those before. */
static bool add_refs_field(struct symbol_scan *v, struct proto *r, uint32_t wire, size_t *n)
{
    uint64_t ref;
    if (wire == PROTO_VARINT)
        return proto_varint(r, &ref) && add_ref(v, ref, n);
    struct slice packed;
    if (!proto_bytes_field(r, wire, "LabelsRefs", &packed))
        return false;
    struct proto in = proto_of(packed, "LabelsRefs", r->err);
    while (proto_more(&in)) {
        if (!proto_varint(&in, &ref) || !add_ref(v, ref, n))
            return false;
    }
    return true;
}

static bool finish_refs(struct symbol_scan *v, size_t n, struct labels *ret)
{
    if (n % 2)
        return err_set(v->scan.err, ERR_BAD_DATA, "proto: Remote Write 2.0 odd number of label references");
    *ret = (struct labels){.items = v->labels, .n = n / 2};
    for (size_t i = 0; i < ret->n; i++)
        v->expanded_bytes += ret->items[i].name.n + ret->items[i].value.n + LABEL_OVERHEAD;
    size_t max = WRITE_SYMBOLS_FACTOR * v->scan.req->message.n + WRITE_SYMBOLS_FREE;
    if (v->expanded_bytes > max)
        return err_set(v->scan.err, ERR_BAD_DATA, "the symbols of the write request expand to more than %zu bytes",
                       max);
    return true;
}

/* --- exemplars ------------------------------------------------------------------------------------------------------
 */

/* The Exemplar of 1.0: 1 labels, 2 value, 3 timestamp. */
static bool build_exemplar(struct symbol_scan *v, struct labels labels, double value, int64_t t,
                           struct write_exemplar *ret)
{
    size_t labels_n = 0;
    for (size_t i = 0; i < labels.n; i++)
        labels_n += label_canonical_size(labels.items[i]);
    size_t n = labels_n + 9 + (t ? 1 + proto_uvarint_size((uint64_t)t) : 0);
    char *start = arena_alloc(v->scan.arena, n);
    if (!start)
        return scan_fail_memory(&v->scan);
    char *out = start;
    for (size_t i = 0; i < labels.n; i++)
        out = label_put_canonical(out, labels.items[i]);
    *out++ = 0x11;
    memcpy(out, &value, 8);
    out += 8;
    if (t) {
        *out++ = 0x18;
        out = proto_put_uvarint(out, (uint64_t)t);
    }
    ASSERT(out == start + n);
    *ret =
        (struct write_exemplar){.raw = slice_make(start, n), .labels = slice_make(start, labels_n), .t = t, .v = value};
    return true;
}

static bool scan_exemplar(struct symbol_scan *v, struct slice msg)
{
    struct proto r = proto_of(msg, rw2.exemplar_message, v->scan.err);
    size_t n_refs = 0;
    double value = 0;
    uint64_t t = 0;
    while (proto_more(&r)) {
        uint32_t field, wire;
        bool ok;
        if (!proto_tag(&r, &field, &wire))
            return false;
        if (field == 1)
            ok = add_refs_field(v, &r, wire, &n_refs);
        else if (field == 2)
            ok = proto_double_field(&r, wire, "Value", &value);
        else if (field == 3)
            ok = proto_varint_field(&r, wire, "Timestamp", &t);
        else
            ok = proto_skip(&r, wire);
        if (!ok)
            return false;
    }
    struct labels labels;
    if (!finish_refs(v, n_refs, &labels))
        return false;
    struct write_exemplar *ex = scan_exemplar_slot(&v->scan);
    return ex && build_exemplar(v, labels, value, (int64_t)t, ex);
}

/* --- metadata -------------------------------------------------------------------------------------------------------
 */

static bool scan_metadata(struct symbol_scan *v, struct slice msg, struct write_metadata *ret)
{
    struct proto r = proto_of(msg, "MetadataRW2", v->scan.err);
    while (proto_more(&r)) {
        uint32_t field, wire;
        uint64_t type = 0;
        bool ok;
        if (!proto_tag(&r, &field, &wire))
            return false;
        if (field == 1) {
            ok = proto_varint_field(&r, wire, "Type", &type);
            ret->type = (uint32_t)type;
        } else if (field == 3) {
            ok = resolve_field(v, &r, wire, "HelpRef", "help", &ret->help);
        } else if (field == 4) {
            ok = resolve_field(v, &r, wire, "UnitRef", "unit", &ret->unit);
        } else {
            ok = proto_skip(&r, wire);
        }
        if (!ok)
            return false;
    }
    return true;
}

/* Series of one family share its metadata: the parts of a histogram or summary are called by a suffix. */
static struct slice family_of(struct slice name, uint32_t type)
{
    static const struct slice histogram[] = {{"_bucket", 7}, {"_count", 6}, {"_sum", 4}, {NULL, 0}};
    static const struct slice gauge_histogram[] = {{"_bucket", 7}, {"_gcount", 7}, {"_gsum", 5}, {NULL, 0}};
    static const struct slice summary[] = {{"_count", 6}, {"_sum", 4}, {NULL, 0}};
    const struct slice *suffixes = type == 3 ? histogram : type == 4 ? gauge_histogram : type == 5 ? summary : NULL;
    for (; suffixes && suffixes->n; suffixes++) {
        if (name.n > suffixes->n && slice_has_suffix(name, *suffixes))
            return slice_make(name.p, name.n - suffixes->n);
    }
    return name;
}

/* Is this the first of its family? Then it is noted as the metadata that comes next. */
static bool family_is_new(struct symbol_scan *v, struct slice family, bool *ret_new)
{
    if (!v->families) {
        uint32_t size = 64;
        while (size < 2 * v->n_counted_series)
            size *= 2;
        v->families = scan_alloc(&v->scan, size, sizeof(*v->families));
        if (!v->families)
            return false;
        memset(v->families, 0, size * sizeof(*v->families));
        v->families_mask = size - 1;
    }
    uint32_t slot = (uint32_t)XXH3_64bits(family.p, family.n);
    *ret_new = true;
    for (unsigned probe = 0; probe < FAMILY_PROBES_MAX; probe++) {
        uint32_t *entry = &v->families[(slot + probe) & v->families_mask];
        if (!*entry) {
            *entry = (uint32_t)v->scan.req->n_metadata + 1;
            return true;
        }
        if (slice_eq(v->scan.req->metadata[*entry - 1].family, family)) {
            *ret_new = false;
            return true;
        }
    }
    return true;
}

/* The MetricMetadata of 1.0: 1 type, 2 metric_family_name, 4 help, 5 unit. */
static bool build_metadata(struct symbol_scan *v, struct write_metadata *m)
{
    size_t n = (m->type ? 1 + proto_uvarint_size(m->type) : 0) + (m->family.n ? proto_bytes_size(m->family.n) : 0) +
               (m->help.n ? proto_bytes_size(m->help.n) : 0) + (m->unit.n ? proto_bytes_size(m->unit.n) : 0);
    v->expanded_bytes += n;
    char *start = arena_alloc(v->scan.arena, n ? n : 1);
    if (!start)
        return scan_fail_memory(&v->scan);
    char *out = start;
    if (m->type) {
        *out++ = 0x08;
        out = proto_put_uvarint(out, m->type);
    }
    if (m->family.n)
        out = proto_put_bytes(out, 0x12, m->family);
    if (m->help.n)
        out = proto_put_bytes(out, 0x22, m->help);
    if (m->unit.n)
        out = proto_put_bytes(out, 0x2A, m->unit);
    ASSERT(out == start + n);
    m->raw = slice_make(start, n);
    return true;
}

/* Metadata that says nothing (writers always send the field) is none. */
static bool metadata_says_something(const struct write_metadata *m)
{
    return m->type || m->help.n || m->unit.n;
}

static bool add_metadata(struct symbol_scan *v, struct slice name, struct write_metadata m)
{
    struct write_request *req = v->scan.req;
    m.family = v->form == WRITE_SYMBOLS_RW2 ? family_of(name, m.type) : name;
    if (req->n_metadata == v->cap_metadata) {
        size_t cap = MAX((size_t)32, 2 * v->cap_metadata);
        struct write_metadata *p = scan_alloc(&v->scan, cap, sizeof(*p));
        if (!p)
            return false;
        if (req->n_metadata)
            memcpy(p, req->metadata, req->n_metadata * sizeof(*p));
        req->metadata = p;
        v->cap_metadata = cap;
    }
    bool is_new = true;
    if (v->form == WRITE_SYMBOLS_RW2 && !family_is_new(v, m.family, &is_new))
        return false;
    if (!is_new)
        return true;
    if (!build_metadata(v, &m))
        return false;
    req->metadata[req->n_metadata++] = m;
    return true;
}

/* --- series ---------------------------------------------------------------------------------------------------------
 */

/* Everything of a series message but its labels, which field 4 (exemplars) would need the scratch for: they are read in
 * a pass before. */
static bool scan_items(struct symbol_scan *v, struct slice msg, struct write_series *series,
                       struct write_metadata *metadata)
{
    struct proto r = proto_of(msg, rw2.series_message, v->scan.err);
    while (proto_more(&r)) {
        uint32_t field, wire;
        struct slice item;
        uint64_t t;
        bool ok;
        if (!proto_tag(&r, &field, &wire))
            return false;
        switch (field) {
        case 2:
            ok = proto_bytes_field(&r, wire, "Samples", &item) && scan_sample(&v->scan, item);
            break;
        case 3:
            ok = proto_bytes_field(&r, wire, "Histograms", &item) && scan_histogram(&v->scan, item);
            break;
        case 4:
            ok = proto_bytes_field(&r, wire, "Exemplars", &item) && scan_exemplar(v, item);
            break;
        case 5:
            ok = proto_bytes_field(&r, wire, "Metadata", &item) && scan_metadata(v, item, metadata);
            break;
        case 6:
            ok = proto_varint_field(&r, wire, "CreatedTimestamp", &t);
            series->created_t = ok ? (int64_t)t : 0;
            break;
        default:
            ok = proto_skip(&r, wire);
        }
        if (!ok)
            return false;
    }
    return true;
}

/* The label references, which nearly always are one packed field at the message's beginning. */
static bool scan_labels(struct symbol_scan *v, struct slice msg, struct labels *ret)
{
    struct proto r = proto_of(msg, rw2.series_message, v->scan.err);
    size_t n_refs = 0;
    while (proto_more(&r)) {
        uint32_t field, wire;
        if (!proto_tag(&r, &field, &wire))
            return false;
        if (field == 1 ? !add_refs_field(v, &r, wire, &n_refs) : !proto_skip(&r, wire))
            return false;
    }
    return finish_refs(v, n_refs, ret);
}

static bool scan_series(struct symbol_scan *v, struct slice msg)
{
    struct write_request *req = v->scan.req;
    struct write_series *series = &req->series[req->n_series];
    *series = (struct write_series){.flags = WRITE_SERIES_SPAN_WHOLE};
    struct write_metadata metadata = {.family = {"", 0}, .help = {"", 0}, .unit = {"", 0}};
    struct labels labels;
    if (!scan_items(v, msg, series, &metadata) || !scan_labels(v, msg, &labels))
        return false;
    if (metadata_says_something(&metadata)) {
        if (!add_metadata(v, labels_get(labels, SL(METRIC_NAME_LABEL)), metadata))
            return false;
        if (v->form == WRITE_SYMBOLS_RECORD_V2 && req->n_samples == v->scan.samples_before &&
            req->n_histograms == v->scan.histograms_before && req->n_exemplars == v->scan.exemplars_before)
            return true; /* this is how the format carries metadata that belongs to no series */
    }
    /* The span's place is filled in by the rebuild; until then its length says whether there are labels. */
    series->labels = slice_make("", labels.n);
    if (!scan_end_series(&v->scan, series))
        return true;
    if (!write_series_rebuild(req, series, &labels, v->scan.arena))
        return scan_fail_memory(&v->scan);
    req->n_series++;
    return true;
}

/* --- the request ----------------------------------------------------------------------------------------------------
 */

static bool is_rw1_field(uint32_t field)
{
    return field == 1 || field == 3;
}

static bool fail_rw1_field(struct scan *s, struct proto *r, uint32_t field, uint32_t wire)
{
    const char *name = field == 1 ? "Timeseries" : "Metadata";
    if (wire != PROTO_BYTES)
        return proto_fail_wire(r, wire, name);
    return err_set(s->err, ERR_BAD_DATA, "proto: Remote Write 1.0 field %s in non-Remote Write 1.0 message", name);
}

/* First pass: checks the top level, counts, and reads the request's own fields. */
static bool count_top(struct symbol_scan *v)
{
    struct proto r = proto_of(v->scan.req->message, "WriteRequest", v->scan.err);
    while (proto_more(&r)) {
        uint32_t field, wire;
        struct slice skipped;
        bool known = true;
        if (!proto_tag(&r, &field, &wire))
            return false;
        if (is_rw1_field(field))
            return fail_rw1_field(&v->scan, &r, field, wire);
        if (field == 4 || field == 5) {
            if (!proto_bytes_field(&r, wire, field == 4 ? "SymbolsRW2" : "TimeseriesRW2", &skipped))
                return false;
            if (field == 4 && v->n_symbols == 0 && skipped.n)
                return err_set(v->scan.err, ERR_BAD_DATA,
                               "proto: Remote Write 2.0 symbols must start with empty string");
            v->n_symbols += field == 4;
            v->n_counted_series += field == 5;
        } else if (!scan_request_field(&v->scan, &r, field, wire, &known) || (!known && !proto_skip(&r, wire))) {
            return false;
        }
    }
    return true;
}

static void collect_symbols(struct symbol_scan *v)
{
    struct proto r = proto_of(v->scan.req->message, "WriteRequest", NULL);
    size_t n = 0;
    while (n < v->n_symbols) {
        uint32_t field, wire;
        bool ok = proto_tag(&r, &field, &wire);
        ok = ok && (field == 4 ? proto_bytes(&r, &v->symbols[n++]) : proto_skip(&r, wire));
        ASSERT(ok); /* the first pass has been here */
    }
}

static bool scan_all_series(struct symbol_scan *v)
{
    struct proto r = proto_of(v->scan.req->message, "WriteRequest", v->scan.err);
    while (proto_more(&r)) {
        uint32_t field, wire;
        struct slice msg;
        if (!proto_tag(&r, &field, &wire))
            return false;
        if (field != 5) {
            if (!proto_skip(&r, wire))
                return false;
            continue;
        }
        scan_begin_series(&v->scan, r.p);
        if (!proto_bytes(&r, &msg) || !scan_series(v, msg))
            return false;
    }
    return true;
}

bool write_request_scan_v2(struct slice message, enum write_symbols symbols, struct arena *arena,
                           struct write_request *ret, struct err *err)
{
    *ret = (struct write_request){.message = message};
    if (message.n > UINT32_MAX) /* indexes are 32 bits wide */
        return err_set(err, ERR_BAD_DATA, "the write request of %zu bytes is too large", message.n);
    struct symbol_scan v = {.scan = {.req = ret, .arena = arena, .err = err, .form = &rw2}, .form = symbols};
    if (!count_top(&v))
        return false;
    v.symbols = scan_alloc(&v.scan, v.n_symbols, sizeof(*v.symbols));
    ret->series = v.symbols ? scan_alloc(&v.scan, v.n_counted_series + 1, sizeof(*ret->series)) : NULL;
    ret->samples = ret->series ? scan_alloc(&v.scan, v.n_counted_series, sizeof(*ret->samples)) : NULL;
    if (!ret->samples)
        return false;
    v.scan.cap_samples = v.n_counted_series;
    collect_symbols(&v);
    return scan_all_series(&v);
}
