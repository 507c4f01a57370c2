/* OpenMetrics text of any bytes, line by line: each is refused by name, or gives labels in order that point to bytes that are there. */
#include <stdint.h>
#include <stdlib.h>

#include "app/tools/openmetrics.h"
#include "base/assert.h"

static void try_line(struct openmetrics *o, struct slice line)
{
    enum openmetrics_kind kind;
    struct openmetrics_sample s;
    struct err err = ERR_NONE;
    struct buf text = {0};
    if (!openmetrics_line(o, line, &kind, &s, &err)) {
        ASSERT(err.code == ERR_BAD_DATA && err.text[0]);
        return;
    }
    if (kind != OPENMETRICS_SAMPLE)
        return;
    for (size_t i = 0; i < s.labels.n; i++)
        ASSERT(s.labels.items[i].value.n && (i == 0 || slice_cmp(s.labels.items[i - 1].name, s.labels.items[i].name) < 0));
    labels_print_set(s.labels, &text);
    buf_release(&text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct openmetrics o; /* large, and the same for all */
    openmetrics_init(&o);
    const char *p = (const char *)data, *end = p + size;
    while (p < end) {
        const char *stop = memchr(p, '\n', (size_t)(end - p));
        stop = stop ? stop : end;
        /* A copy, so that one byte too far is seen. */
        char *line = malloc((size_t)(stop - p) + 1);
        ASSERT(line);
        memcpy(line, p, (size_t)(stop - p));
        char *exact = realloc(line, (size_t)(stop - p) ? (size_t)(stop - p) : 1);
        ASSERT(exact);
        try_line(&o, slice_make(exact, (size_t)(stop - p)));
        free(exact);
        p = stop + 1;
    }
    openmetrics_release(&o);
    return 0;
}
