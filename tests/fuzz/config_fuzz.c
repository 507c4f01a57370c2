/* A configuration file of any bytes gives values or an error that says what is wrong; what it gives can be printed and read again. */
#include <stdint.h>

#include "base/assert.h"
#include "base/flags_int.h"

struct cfg {
    const char *name;
    const char *secret;
    bool on;
    int64_t count;
    uint64_t size;
    uint64_t number;
    int64_t timeout;
    double rate;
    struct flag_list list;
};

#define ROW(field, type, ...) FLAG_ROW(cfg, field, type, __VA_ARGS__)
static const struct flag_def defs[] = {
    ROW(name, STRING, "name", "name", "x", BASIC, "")
    ROW(secret, SECRET, "secret", "a.secret", "", BASIC, "")
    ROW(on, BOOL, "on", "a.b.on", "false", BASIC, "")
    ROW(count, INT, "count", "a.b.count", "7", BASIC, "")
    ROW(size, BYTES, "size", "size", "1MiB", BASIC, "")
    ROW(number, UINT64, "number", "number", "1", BASIC, "")
    ROW(timeout, DURATION, "timeout", "timeout", "1h", BASIC, "")
    ROW(rate, DOUBLE, "rate", "rate", "0.5", BASIC, "")
    ROW(list, LIST, "list", "list", "", BASIC, "")
};

static bool parse(struct slice text, struct buf *ret_printed)
{
    struct cfg cfg;
    struct flag_set *fs = flag_set_new();
    flag_set_add(fs, "fuzz", defs, ARRAY_LEN(defs), &cfg);
    struct err err = ERR_NONE;
    bool ok = flag_set_parse_yaml(fs, "fuzz.yaml", text, &err);
    ASSERT(ok || err.text[0]);
    if (ok)
        flag_set_print_yaml(fs, FLAG_DUMP_ALL, ret_printed);
    flag_set_free(fs);
    return ok;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct buf expanded, first, second;
    buf_init(&expanded, 1 << 20);
    buf_init(&first, 1 << 20);
    buf_init(&second, 1 << 20);
    flags_expand_env(slice_make(data, size), &expanded);
    parse(buf_slice(&expanded), &second);
    buf_clear(&second);
    if (parse(slice_make(data, size), &first)) {
        ASSERT(parse(buf_slice(&first), &second));
        /* A masked secret comes back as the mask, so the second print equals the first. */
        ASSERT(slice_eq(buf_slice(&first), buf_slice(&second)));
    }
    buf_release(&expanded);
    buf_release(&first);
    buf_release(&second);
    return 0;
}
