#include <criterion/criterion.h>

#include "base/assert.h"
#include "log/read_consistency.h"

Test(read_consistency, levels_are_two_words)
{
    enum read_consistency c = READ_EVENTUAL;
    cr_expect(read_consistency_parse(SL("strong"), &c) && c == READ_STRONG);
    cr_expect(read_consistency_parse(SL("eventual"), &c) && c == READ_EVENTUAL);
    cr_expect(!read_consistency_parse(SL("Strong"), &c));
    cr_expect(!read_consistency_parse(SL(""), &c));
}

Test(read_consistency, offsets_are_written_as_mimir_writes_them)
{
    struct buf b;
    buf_init(&b, 0);
    read_offsets_put(NULL, 0, &b);
    cr_expect_str_eq(buf_cstr(&b), "");
    read_offsets_put((struct partition_offset[]){{0, 41}, {1, -1}, {12, INT64_MAX}}, 3, &b);
    cr_expect_str_eq(buf_cstr(&b), "v1=0:41,1:-1,12:9223372036854775807");
    int64_t offset = 0;
    cr_expect(read_offsets_find(buf_slice(&b), 12, &offset));
    cr_expect_eq(offset, INT64_MAX);
    buf_release(&b);
}

Test(read_consistency, an_offset_is_found_and_damage_is_not_read)
{
    static const struct {
        const char *text;
        int32_t partition;
        bool found;
        int64_t offset;
    } cases[] = {
        {"v1=0:41,1:-1", 0, true, 41},
        {"v1=0:41,1:-1", 1, true, -1},
        {"v1=0:41,1:-1", 2, false, 0},
        {"v1=10:5,1:6", 1, true, 6},
        {"v1=1:6,", 1, false, 0},
        {"v1=1:6,2", 1, false, 0},
        {"v1=1:6;2:7", 1, false, 0},
        {"v1=1:-2", 1, false, 0},
        {"v1=-1:2", -1, false, 0},
        {"v1=1: 2", 1, false, 0},
        {"v1=1:9223372036854775808", 1, false, 0},
        {"v1=4294967297:5", 1, false, 0},
        {"v1=", 1, false, 0},
        {"", 1, false, 0},
        {"v9=zzz", 1, false, 0},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        int64_t offset = 0;
        cr_expect_eq(read_offsets_find(slice_of(cases[i].text), cases[i].partition, &offset), cases[i].found, "%s", cases[i].text);
        cr_expect_eq(offset, cases[i].offset, "%s", cases[i].text);
    }
}

static struct read_wish wish(const char *level, const char *offsets, const char *delay)
{
    struct ctx_tag tags[] = {{SL(READ_LEVEL_TAG), slice_of(level)},
                             {SL(READ_OFFSETS_TAG), slice_of(offsets)},
                             {SL(READ_MAX_DELAY_TAG), slice_of(delay)}};
    struct ctx ctx = {.tags = tags, .n_tags = 3};
    return read_wish_of(&ctx, 3);
}

Test(read_consistency, tags_are_a_wish)
{
    struct read_wish w = read_wish_of(&(struct ctx){0}, 3);
    cr_expect(w.level == READ_EVENTUAL && !w.has_offset && w.max_delay_ms == 0);
    w = wish("strong", "v1=3:7", "");
    cr_expect(w.level == READ_STRONG && w.has_offset && w.offset == 7);
    w = wish("strong", "v9=zzz", "");
    cr_expect(w.level == READ_STRONG && !w.has_offset);
    w = wish("strong", "v1=0:7", "30s");
    cr_expect(w.level == READ_STRONG && !w.has_offset && w.max_delay_ms == 0);
    w = wish("eventual", "v1=3:7", "1m30s");
    cr_expect(w.level == READ_EVENTUAL && !w.has_offset && w.max_delay_ms == 90000);
    cr_expect_eq(wish("", "", "30s").max_delay_ms, 30000);
    cr_expect_eq(wish("", "", "soon").max_delay_ms, 0);
    cr_expect_eq(wish("no", "", "-5s").max_delay_ms, 0);
}
