/* Writes the seeds of checkpoint_fuzz into the folder given: small heads with a bit of everything. */
#include "tests/ingest/head_rig.h"

static void fill(struct rig *r, int series, int steps)
{
    static const struct histogram_span span = {0, 2};
    r->limits.out_of_order_time_window = HOUR_MS;
    r->limits.max_global_exemplars_per_user = 4;
    for (int k = 0; k < steps; k++) {
        for (int i = 0; i < series; i++) {
            char text[64];
            snprintf(text, sizeof(text), "m,i=%d,job=%c", i, 'a' + i % 3);
            rig_series(r, text);
            rig_sample(r, T0 + k * 15000, i * k);
            if (k % 5 == 3)
                rig_sample(r, T0 + k * 15000 - 9000, k);
        }
        int64_t deltas[2] = {k, 1};
        struct histogram h = {.schema = 1,
                              .count_int = 2 * (uint64_t)k + 1,
                              .sum = k,
                              .positive_spans = &span,
                              .n_positive_spans = 1,
                              .positive_deltas = deltas,
                              .n_positive = 2};
        rig_series(r, "h,job=b");
        rig_histogram(r, T0 + k * 15000, &h);
        rig_exemplar(r, "trace_id=x", T0 + k, k);
        rig_apply(r);
    }
    struct write_metadata md = {.type = 1, .family = SL("m"), .help = SL("help")};
    metadata_add(&r->head->metadata, NULL, &md, 1);
}

int main(int argc, char **argv)
{
    static const int shapes[][2] = {{0, 0}, {1, 1}, {5, 3}, {9, 40}, {3, 130}};
    for (size_t i = 0; argc > 1 && i < ARRAY_LEN(shapes); i++) {
        struct rig *r = rig_new(1);
        struct err err;
        uint64_t bytes;
        char from[256];
        char to[4200];
        fill(r, shapes[i][0], shapes[i][1]);
        if (!head_checkpoint(r->head, 5, &bytes, &err))
            return 1;
        snprintf(from, sizeof(from), "%s/tenants/t/head.ckpt", r->dir);
        snprintf(to, sizeof(to), "%s/head%zu", argv[1], i);
        if (rename(from, to) != 0)
            return 1;
        rig_free(r);
    }
    return 0;
}
