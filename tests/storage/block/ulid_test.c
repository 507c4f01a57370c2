#include <criterion/criterion.h>
#include <string.h>

#include "storage/block/crc32c.h"
#include "storage/block/ulid.h"

Test(ulid, keeps_its_time_and_differs_from_the_next)
{
    struct ulid a = ulid_new(1795236852710), b = ulid_new(1795236852710), back;
    cr_expect_eq(ulid_time_ms(&a), 1795236852710);
    cr_expect(memcmp(a.text, b.text, 10) == 0 && strcmp(a.text, b.text) != 0);
    cr_expect(ulid_parse(slice_of(a.text), &back) && strcmp(a.text, back.text) == 0);
}

Test(ulid, sorts_by_time)
{
    struct ulid before = ulid_new(0);
    for (int64_t t = 1; t < INT64_C(1) << 48; t *= 3) {
        struct ulid u = ulid_new(t);
        cr_expect_lt(strcmp(before.text, u.text), 0);
        cr_expect_eq(ulid_time_ms(&u), t);
        before = u;
    }
}

/* A block of shared/mimir/blocks; its shipper noted 1795237503.2 as the time of its upload. */
Test(ulid, of_mimir_tells_when_it_was_made)
{
    struct ulid u;
    cr_assert(ulid_parse(SL("01M7Y7WR36RNAK3M75MGY89WZT"), &u));
    cr_expect_eq(ulid_time_ms(&u), 1795237503078);
}

Test(ulid, only_26_characters_of_its_alphabet_are_one)
{
    static const char *const bad[] = {"", "01M7Y7WR36RNAK3M75MGY89WZ", "01M7Y7WR36RNAK3M75MGY89WZTT", "81M7Y7WR36RNAK3M75MGY89WZT",
                                      "01M7Y7WR36RNAK3M75MGY89WZI", "01M7Y7WR36RNAK3M75MGY89WZU", "01M7Y7WR36RNAK3M75MGY89W-T"};
    struct ulid u;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        cr_expect(!ulid_parse(slice_of(bad[i]), &u), "%s", bad[i]);
    cr_expect(!ulid_parse(slice_make("01M7Y7WR36RNAK3M75MGY89WZ\0", 26), &u));
    cr_expect(ulid_parse(SL("01m7y7wr36rnak3m75mgy89wzt"), &u));
    cr_expect_str_eq(u.text, "01M7Y7WR36RNAK3M75MGY89WZT");
}

/* RFC 3720, B.4. */
Test(crc32c, gives_the_published_answers)
{
    uint8_t zeros[32] = {0}, up[32];
    for (uint8_t i = 0; i < 32; i++)
        up[i] = i;
    cr_expect_eq(crc32c(0, zeros, 32), 0x8A9136AA);
    cr_expect_eq(crc32c(0, up, 32), 0x46DD794E);
    cr_expect_eq(crc32c(crc32c(0, up, 13), up + 13, 19), 0x46DD794E);
    cr_expect_eq(crc32c(0, "123456789", 9), 0xE3069283);
    cr_expect_eq(crc32c(0, NULL, 0), 0);
}

/* Expected values by another program from the 128 bits as one number. */
Test(ulid, has_a_place_in_the_ring_of_store_gateways)
{
    static const struct {
        const char *text;
        uint32_t token;
    } cases[] = {
        {"01M7Y7WTZC20WGE5Z5HF7WE0E1", 3849799355u},
        {"01M7Y7WV8DSG1FW9JSPE6ZPX48", 3191952025u},
        {"7ZZZZZZZZZZZZZZZZZZZZZZZZZ", 4230643797u},
        {"00000000000000000000000000", 1768495365u},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct ulid u;
        cr_assert(ulid_parse(slice_of(cases[i].text), &u));
        cr_expect_eq(ulid_ring_token(&u), cases[i].token, "%s: %u", cases[i].text, ulid_ring_token(&u));
    }
}
