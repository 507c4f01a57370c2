#include "net/cluster.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "base/assert.h"
#include "base/buf.h"
#include "base/clock.h"
#include "base/logger.h"
#include "base/metrics.h"

#define MAX_SEEN 16   /* foreign labels that get series of their own; a sender could make up any number */
#define MAX_LABEL 128 /* bytes of a label that are told */

bool cluster_config_check(const struct http_config *common, const char *protocol, bool enabled, bool soft, struct err *err)
{
    if (soft && !enabled)
        return err_set(err, ERR_CONFIG,
                       "cluster validation: %s: validation must be enabled if soft validation is configured", protocol);
    if (enabled && (!common || !common->cluster_validation_label[0]))
        return err_set(err, ERR_CONFIG,
                       "cluster validation: %s: validation cannot be enabled if cluster validation label is not configured",
                       protocol);
    return true;
}

static bool is_ours(const struct http_config *common, struct slice label)
{
    bool ours = slice_eq(label, slice_of(common->cluster_validation_label));
    for (size_t i = 0; !ours && i < common->cluster_validation_additional_labels.n; i++)
        ours = slice_eq(label, slice_of(common->cluster_validation_additional_labels.items[i]));
    return ours;
}

/* The label as a value of the metric: one of the first MAX_SEEN that came, or "other". */
static struct slice metric_label(struct slice label)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static char seen[MAX_SEEN][MAX_LABEL];
    static size_t n_seen;
    struct slice found = SL("other");
    if (label.n == 0)
        return SL("");
    if (label.n >= MAX_LABEL || memchr(label.p, 0, label.n))
        return found;
    pthread_mutex_lock(&lock);
    size_t i = 0;
    while (i < n_seen && !slice_eq(label, slice_of(seen[i])))
        i++;
    if (i < MAX_SEEN) {
        if (i == n_seen) {
            memcpy(seen[i], label.p, label.n);
            seen[i][label.n] = '\0';
            n_seen++;
        }
        found = slice_of(seen[i]); /* never changes from now on */
    }
    pthread_mutex_unlock(&lock);
    return found;
}

/* In the quotes of Go's %q, as far as a label needs it. */
static void put_quoted(struct buf *out, struct slice s)
{
    buf_putc(out, '"');
    for (size_t i = 0; i < MIN(s.n, (size_t)MAX_LABEL); i++) {
        unsigned char c = (unsigned char)s.p[i];
        if (c == '"' || c == '\\')
            buf_printf(out, "\\%c", c);
        else if (c < ' ' || c == 127)
            buf_printf(out, "\\x%02x", c);
        else
            buf_putc(out, (char)c);
    }
    buf_putc(out, '"');
}

static void refusal(const struct http_config *common, struct slice label, struct err *err)
{
    struct buf text = {.max = ERR_TEXT_MAX};
    buf_puts(&text, "rejected request with ");
    if (label.n) {
        buf_puts(&text, "wrong cluster validation label ");
        put_quoted(&text, label);
    } else {
        buf_puts(&text, "empty cluster validation label");
    }
    buf_printf(&text, " - it should be one of [%s", common->cluster_validation_label);
    for (size_t i = 0; i < common->cluster_validation_additional_labels.n; i++)
        buf_printf(&text, " %s", common->cluster_validation_additional_labels.items[i]);
    buf_puts(&text, "]");
    err_set(err, ERR_CONFLICT, "%s", text.failed ? "rejected request with wrong cluster validation label" : buf_cstr(&text));
    buf_release(&text);
}

/* A line a second: a misdirected cluster sends many requests. */
static bool may_log(void)
{
    static atomic_int_fast64_t second;
    int64_t now = clock_mono_ms() / 1000;
    return atomic_exchange_explicit(&second, now, memory_order_relaxed) != now;
}

bool cluster_label_check(const struct http_config *common, const char *protocol, bool soft, struct slice method,
                         struct slice label, struct err *err)
{
    if (label.n && is_ours(common, label))
        return true;
    const struct slice values[] = {slice_of(protocol), method, slice_of(common->cluster_validation_label), metric_label(label)};
    metric_inc(metric_get(http_request_families().wrong_cluster, values));
    if (may_log())
        LOG_WARN("request with wrong cluster validation label", {"protocol", LOG_STR(protocol)}, {"method", LOG_SLICE(method)},
                 {"request_cluster_validation_label", LOG_SLICE(label)},
                 {"cluster_validation_label", LOG_STR(common->cluster_validation_label)}, {"soft_validation", LOG_BOOL(soft)});
    if (!soft)
        refusal(common, label, err);
    return soft;
}
