/* Metadata: a name is needed, names and units have a maximum length, help texts are cut at it. */
#include "base/assert.h"
#include "base/utf8.h"
#include "write/push.h"

static void refuse(struct push *p, size_t i, enum discard_reason reason, enum err_code code, const struct write_metadata *m)
{
    p->discards[reason]++;
    struct buf *out = push_error_begin(p, p->req->n_series + i, code); /* errors of series come first */
    if (!out)
        return;
    if (code == ERR_METADATA_MISSING_METRIC_NAME) {
        buf_puts(out, "received a metric metadata with no metric name");
        push_error_end(p, NULL);
        return;
    }
    if (code == ERR_UNIT_TOO_LONG) {
        buf_puts(out, "received a metric metadata whose unit name length exceeds the limit, unit: '");
        push_put_cut(out, m->unit, 200);
        buf_puts(out, "' metric name: '");
    } else {
        buf_puts(out, "received a metric metadata whose metric name length exceeds the limit, metric name: '");
    }
    push_put_cut(out, m->family, 200);
    buf_putc(out, '\'');
    push_error_end(p, "validation.max-metadata-length");
}

static char *put_field(char *out, unsigned field, struct slice s)
{
    if (s.n == 0)
        return out;
    *out++ = (char)(field << 3 | 2);
    for (size_t n = s.n; ; n >>= 7) {
        *out++ = (char)(n > 0x7f ? (n & 0x7f) | 0x80 : n);
        if (n <= 0x7f)
            break;
    }
    memcpy(out, s.p, s.n);
    return out + s.n;
}

/* The message MetricMetadata anew, with the help text as it now is. */
static bool encode_again(struct push *p, struct write_metadata *m)
{
    size_t most = 8 + 3 * 11 + m->family.n + m->help.n + m->unit.n;
    char *start = arena_alloc(&p->batch->arena, most);
    if (!start)
        return push_fail(p, ERR_BAD_DATA, "the push request needs too much memory for its size");
    char *out = start;
    if (m->type && m->type < 128) { /* there are eight types; an unknown one is stored as unknown */
        *out++ = 1 << 3;
        *out++ = (char)m->type;
    }
    out = put_field(out, 2, m->family);
    out = put_field(out, 4, m->help);
    out = put_field(out, 5, m->unit);
    m->raw = slice_make(start, (size_t)(out - start));
    p->n_reencoded++;
    return true;
}

bool push_check_metadata(struct push *p)
{
    struct write_request *req = p->req;
    if (req->n_metadata == 0)
        return true;
    p->metadata = ARENA_ARRAY(&p->batch->arena, uint32_t, req->n_metadata);
    if (!p->metadata)
        return push_fail(p, ERR_BAD_DATA, "the push request needs too much memory for its size");
    const size_t most = p->limits->max_metadata_length > 0 ? (size_t)p->limits->max_metadata_length : SIZE_MAX;
    for (size_t i = 0; i < req->n_metadata; i++) {
        struct write_metadata *m = &req->metadata[i];
        if (m->family.n == 0 && p->limits->enforce_metadata_metric_name) {
            refuse(p, i, REASON_METADATA_MISSING_METRIC_NAME, ERR_METADATA_MISSING_METRIC_NAME, m);
        } else if (m->family.n > most) {
            refuse(p, i, REASON_METADATA_METRIC_NAME_TOO_LONG, ERR_METRIC_NAME_TOO_LONG, m);
        } else if (m->unit.n > most) {
            refuse(p, i, REASON_METADATA_UNIT_TOO_LONG, ERR_UNIT_TOO_LONG, m);
        } else {
            if (m->help.n > most) {
                m->help = utf8_cut(m->help, most);
                if (!encode_again(p, m))
                    return false;
            }
            p->metadata[p->n_metadata++] = (uint32_t)i;
        }
    }
    p->accepted.metadata = p->n_metadata;
    return true;
}
