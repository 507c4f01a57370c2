/* See write_scan_int.h. */
#include "model/write_scan_int.h"

/* --- memory ---------------------------------------------------------------------------------------------------------
 */

bool scan_fail_memory(struct scan *s)
{
    return err_set(s->err, ERR_BAD_DATA, "the write request of %zu bytes needs more memory than a request may use",
                   s->req->message.n);
}

void *scan_alloc(struct scan *s, size_t n, size_t size)
{
    size_t bytes;
    size_t limit = WRITE_ITEMS_FACTOR * s->req->message.n + WRITE_ITEMS_FREE;
    if (__builtin_mul_overflow(n, size, &bytes) || bytes > limit - s->items_bytes) {
        err_set(s->err, ERR_BAD_DATA, "the write request holds too many items for its size of %zu bytes",
                s->req->message.n);
        return NULL;
    }
    s->items_bytes += bytes;
    void *p = arena_alloc(s->arena, bytes ? bytes : 1);
    if (!p)
        scan_fail_memory(s);
    return p;
}

struct item_counts {
    size_t samples;
    size_t histograms;
    size_t exemplars;
};

/* Counts a series' items with the same steps as the scan takes, so that it never counts fewer. False at the first
 * malformed field. */
static bool count_series(const struct scan_form *form, struct slice msg, struct item_counts *c)
{
    struct proto r = proto_of(msg, "", NULL);
    while (proto_more(&r)) {
        uint32_t field, wire;
        if (!proto_tag(&r, &field, &wire))
            return false;
        if (wire == PROTO_BYTES) {
            c->samples += field == form->samples;
            c->histograms += field == form->histograms;
            c->exemplars += field == form->exemplars;
        }
        if (!proto_skip(&r, wire))
            return false;
    }
    return true;
}

/* From the series being scanned to the message's end. */
static struct item_counts count_rest(const struct scan *s)
{
    struct item_counts c = {0};
    const char *end = s->req->message.p + s->req->message.n;
    struct proto r = {.p = s->series_start, .end = end, .message = "", .err = NULL};
    uint32_t field = s->form->series, wire = PROTO_BYTES; /* series_start is behind the tag */
    for (;;) {
        struct slice msg;
        if (field == s->form->series && wire == PROTO_BYTES) {
            if (!proto_bytes(&r, &msg) || !count_series(s->form, msg, &c))
                break;
        } else if (!proto_skip(&r, wire)) {
            break;
        }
        if (!proto_more(&r) || !proto_tag(&r, &field, &wire))
            break;
    }
    return c;
}

/* Moves n structs to a new array of cap. */
static bool regrow(struct scan *s, void **array, size_t n, size_t cap, size_t size)
{
    void *p = scan_alloc(s, cap, size);
    if (!p)
        return false;
    if (n)
        memcpy(p, *array, n * size);
    *array = p;
    return true;
}

bool scan_make_room(struct scan *s)
{
    ASSERT(!s->counted); /* else the count and the scan differ about what the message holds */
    struct write_request *req = s->req;
    struct item_counts c = count_rest(s);
    size_t cap_samples = s->samples_before + c.samples;
    size_t cap_histograms = s->histograms_before + c.histograms;
    size_t cap_exemplars = s->exemplars_before + c.exemplars;
    s->counted = true;
    if (cap_samples > s->cap_samples) {
        void *p = req->samples;
        if (!regrow(s, &p, req->n_samples, cap_samples, sizeof(*req->samples)))
            return false;
        req->samples = p;
        s->cap_samples = cap_samples;
    }
    if (cap_histograms > s->cap_histograms) {
        void *p = req->histograms;
        if (!regrow(s, &p, req->n_histograms, cap_histograms, sizeof(*req->histograms)))
            return false;
        req->histograms = p;
        s->cap_histograms = cap_histograms;
    }
    if (cap_exemplars > s->cap_exemplars) {
        void *p = req->exemplars;
        if (!regrow(s, &p, req->n_exemplars, cap_exemplars, sizeof(*req->exemplars)))
            return false;
        req->exemplars = p;
        s->cap_exemplars = cap_exemplars;
    }
    return true;
}

/* --- items ----------------------------------------------------------------------------------------------------------
 */

/*
 * The usual sample: 09 value(8) 10 uvarint(t), with t of one to eight bytes that end the message. The varint is loaded
 * as the last eight bytes of the message (the value's own bytes are in front of it, so that nothing outside is read)
 * and its 7-bit groups are pushed together.
 */
static inline bool sample_fast(struct slice msg, struct write_sample *ret)
{
    if (msg.n < 11 || msg.n > 18 || msg.p[0] != 0x09 || msg.p[9] != 0x10)
        return false;
    unsigned t_n = (unsigned)msg.n - 10;
    uint64_t x;
    memcpy(&x, msg.p + msg.n - 8, 8);
    x >>= 64 - 8 * t_n;
    uint64_t more = x & 0x8080808080808080u;
    uint64_t want = 0x8080808080808080u >> (64 - 8 * t_n) & (0x00ffffffffffffffu >> (8 * (8 - t_n)));
    if (more != want)
        return false;
    x &= 0x7f7f7f7f7f7f7f7fu;
    x = (x & 0x007f007f007f007fu) | ((x & 0x7f007f007f007f00u) >> 1);
    x = (x & 0x00003fff00003fffu) | ((x & 0x3fff00003fff0000u) >> 2);
    x = (x & 0x000000000fffffffu) | ((x & 0x0fffffff00000000u) >> 4);
    ret->t = (int64_t)x;
    memcpy(&ret->v, msg.p + 1, 8);
    return true;
}

static bool sample_slow(struct slice msg, struct err *err, struct write_sample *ret)
{
    struct proto r = proto_of(msg, "Sample", err);
    struct write_sample s = {0};
    while (proto_more(&r)) {
        uint32_t field, wire;
        uint64_t t;
        bool ok;
        if (!proto_tag(&r, &field, &wire))
            return false;
        if (field == 1) {
            ok = proto_double_field(&r, wire, "Value", &s.v);
        } else if (field == 2) {
            ok = proto_varint_field(&r, wire, "TimestampMs", &t);
            s.t = ok ? (int64_t)t : 0;
        } else {
            ok = proto_skip(&r, wire);
        }
        if (!ok)
            return false;
    }
    *ret = s;
    return true;
}

bool scan_sample(struct scan *s, struct slice msg)
{
    struct write_request *req = s->req;
    if (UNLIKELY(req->n_samples == s->cap_samples) && !scan_make_room(s))
        return false;
    struct write_sample *sample = &req->samples[req->n_samples];
    if (UNLIKELY(!sample_fast(msg, sample)) && !sample_slow(msg, s->err, sample))
        return false;
    req->n_samples++;
    return true;
}

bool scan_histogram(struct scan *s, struct slice msg)
{
    struct write_request *req = s->req;
    if (req->n_histograms == s->cap_histograms && !scan_make_room(s))
        return false;
    req->histograms[req->n_histograms++] = msg;
    return true;
}

struct write_exemplar *scan_exemplar_slot(struct scan *s)
{
    struct write_request *req = s->req;
    if (req->n_exemplars == s->cap_exemplars && !scan_make_room(s))
        return NULL;
    return &req->exemplars[req->n_exemplars++];
}

bool scan_end_series(struct scan *s, struct write_series *series)
{
    struct write_request *req = s->req;
    size_t n_samples = req->n_samples - s->samples_before;
    size_t n_histograms = req->n_histograms - s->histograms_before;
    size_t n_exemplars = req->n_exemplars - s->exemplars_before;
    if (UNLIKELY(series->labels.n == 0)) {
        req->n_unlabelled_series++;
        req->n_unlabelled_samples += n_samples + n_histograms;
        req->n_unlabelled_exemplars += n_exemplars;
        req->n_samples = s->samples_before;
        req->n_histograms = s->histograms_before;
        req->n_exemplars = s->exemplars_before;
        return false;
    }
    series->first_sample = (uint32_t)s->samples_before;
    series->n_samples = (uint32_t)n_samples;
    series->first_histogram = (uint32_t)s->histograms_before;
    series->n_histograms = (uint32_t)n_histograms;
    series->first_exemplar = (uint32_t)s->exemplars_before;
    series->n_exemplars = (uint32_t)n_exemplars;
    return true;
}

/* --- the request ----------------------------------------------------------------------------------------------------
 */

bool scan_request_field(struct scan *s, struct proto *r, uint32_t field, uint32_t wire, bool *ret_known)
{
    uint64_t v;
    *ret_known = true;
    switch (field) {
    case 2:
        if (!proto_varint_field(r, wire, "Source", &v))
            return false;
        s->req->source = (uint32_t)v;
        return true;
    case 1000:
        if (!proto_varint_field(r, wire, "SkipLabelValidation", &v))
            return false;
        s->req->skip_label_validation = v != 0;
        return true;
    case 1001:
        if (!proto_varint_field(r, wire, "SkipLabelCountValidation", &v))
            return false;
        s->req->skip_label_count_validation = v != 0;
        return true;
    default:
        *ret_known = false;
        return true;
    }
}
