/* Rows of docs/mimir-http.md 1.1, and of docs/differences.md where Mimir lets an empty or reserved tenant through. */
#include <criterion/criterion.h>

#include "model/tenant.h"

#define TEN "0123456789"
#define FIFTY TEN TEN TEN TEN TEN

static const struct {
    const char *header;
    const char *want; /* NULL: refused */
    enum err_code code;
    const char *text;
} cases[] = {
    {"", NULL, ERR_UNAUTHENTICATED, "no org id"},
    {"anonymous", "anonymous", ERR_OK, ""},
    {"aZ09!._*'()-", "aZ09!._*'()-", ERR_OK, ""},
    {FIFTY FIFTY FIFTY, FIFTY FIFTY FIFTY, ERR_OK, ""},
    {FIFTY FIFTY FIFTY "x", NULL, ERR_UNAUTHENTICATED, "tenant ID is too long: max 150 characters"},
    {".", NULL, ERR_UNAUTHENTICATED, "tenant ID is '.' or '..'"},
    {"..", NULL, ERR_UNAUTHENTICATED, "tenant ID is '.' or '..'"},
    {"...", "...", ERR_OK, ""},
    {"a/b", NULL, ERR_UNAUTHENTICATED, "tenant ID 'a/b' contains unsupported character '/'"},
    {"a\\b", NULL, ERR_UNAUTHENTICATED, "tenant ID 'a\\b' contains unsupported character '\\'"},
    {"a b", NULL, ERR_UNAUTHENTICATED, "tenant ID 'a b' contains unsupported character ' '"},
    {"a,b", NULL, ERR_UNAUTHENTICATED, "tenant ID 'a,b' contains unsupported character ','"},
    {"50%", NULL, ERR_UNAUTHENTICATED, "tenant ID '50%' contains unsupported character '%'"},
    {"\xc3\xa4", NULL, ERR_UNAUTHENTICATED, "tenant ID '\xc3\xa4' contains unsupported character '\xc3\x83'"},
    {"a\nb", NULL, ERR_UNAUTHENTICATED, "tenant ID contains an unsupported control character 0x0a"},
    {"a|b", NULL, ERR_TOO_MANY_TENANTS, "too many tenant IDs present in the request. max: 1 actual: 2"},
    {"a|b|a|c", NULL, ERR_TOO_MANY_TENANTS, "too many tenant IDs present in the request. max: 1 actual: 3"},
    {"a|a", "a", ERR_OK, ""},
    {"a:k=v|a:k=w", "a", ERR_OK, ""},
    {"|", NULL, ERR_UNAUTHENTICATED, "tenant ID is empty"},
    {"a|", NULL, ERR_UNAUTHENTICATED, "tenant ID is empty"},
    {":k=v", NULL, ERR_UNAUTHENTICATED, "tenant ID is empty"},
    {"a:k=v", "a", ERR_OK, ""},
    {"a:k=v:k2=v2", "a", ERR_OK, ""},
    {"a:k", "a", ERR_OK, ""},
    {"a:k=\x01", NULL, ERR_UNAUTHENTICATED, "tenant metadata contains an unsupported control character 0x01"},
    {"__mimir_cluster", NULL, ERR_UNAUTHENTICATED, "tenant ID '__mimir_cluster' is reserved"},
};

Test(tenant, header_grammar)
{
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct err err = ERR_NONE;
        struct slice id = {NULL, 0};
        bool ok = tenant_parse(slice_of(cases[i].header), &id, &err);
        cr_expect_eq(ok, cases[i].want != NULL, "%s", cases[i].header);
        cr_expect_eq(err.code, cases[i].code, "%s: %s", cases[i].header, err.text);
        cr_expect_str_eq(err.text, cases[i].text);
        if (ok)
            cr_expect(slice_eq(id, slice_of(cases[i].want)), "%s", cases[i].header);
    }
}

Test(tenant, a_header_of_thousands_of_tenants_is_refused_in_no_time)
{
    static char header[65536];
    for (size_t i = 0; i + 1 < sizeof(header); i += 2) {
        header[i] = (char)('a' + i / 2 % 26);
        header[i + 1] = '|';
    }
    struct slice id;
    struct err err = ERR_NONE;
    cr_expect_not(tenant_parse(slice_make(header, sizeof(header) - 1), &id, &err));
    cr_expect_str_eq(err.text, "too many tenant IDs present in the request. max: 1 actual: 26");
}

Test(tenant, statuses)
{
    cr_expect_eq(err_http_status(ERR_UNAUTHENTICATED), 401);
    cr_expect_eq(err_http_status(ERR_TOO_MANY_TENANTS), 422);
}
