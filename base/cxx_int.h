/*
 * The C++ of this program, behind extern "C" (cxx.cc): RE2 and <charconv>. No exception leaves it. Only base/ includes this header.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct cxx_re2;

/* What RE2 found wrong with a pattern; one for each of its error codes that has a wording of its own. */
enum cxx_re2_error {
    CXX_RE2_OK,
    CXX_RE2_INTERNAL,
    CXX_RE2_BAD_ESCAPE,
    CXX_RE2_BAD_CHAR_CLASS,
    CXX_RE2_BAD_CHAR_RANGE,
    CXX_RE2_MISSING_BRACKET,
    CXX_RE2_MISSING_PAREN,
    CXX_RE2_UNEXPECTED_PAREN,
    CXX_RE2_TRAILING_BACKSLASH,
    CXX_RE2_REPEAT_ARGUMENT,
    CXX_RE2_REPEAT_SIZE,
    CXX_RE2_REPEAT_OP,
    CXX_RE2_BAD_PERL_OP,
    CXX_RE2_BAD_UTF8,
    CXX_RE2_BAD_NAMED_CAPTURE,
    CXX_RE2_TOO_LARGE,
    CXX_RE2_NO_MEMORY,
};

/* NULL on failure, with the code and the part of the pattern it is about (cut at arg_cap - 1 bytes, NUL-terminated). */
struct cxx_re2 *cxx_re2_new(const char *pattern, size_t n, int64_t max_mem_bytes, enum cxx_re2_error *ret_code, char *ret_arg,
                            size_t arg_cap);
void cxx_re2_free(struct cxx_re2 *re);
/* Matches the whole text. groups[2*i], groups[2*i+1]: start and end of group i (0 = all), start -1 when it took no part. */
bool cxx_re2_match(const struct cxx_re2 *re, const char *text, size_t n, ptrdiff_t *groups, int n_groups);
/* Instructions of the compiled program, both directions. */
int cxx_re2_size(const struct cxx_re2 *re);
int cxx_re2_n_groups(const struct cxx_re2 *re); /* without group 0 */
int cxx_re2_group_by_name(const struct cxx_re2 *re, const char *name, size_t n); /* -1: no such name */

/* Shortest digits that read back as v (finite): "d[.ddd]e[+-]dd[d]". out has room for 32 bytes. Returns the length. */
size_t cxx_double_to_scientific(double v, char *out);

enum cxx_parse { CXX_PARSE_OK, CXX_PARSE_BAD, CXX_PARSE_RANGE };
/* The whole text as a decimal, or (hex) a hexadecimal without its 0x; no sign '+'. RANGE: too large or too small for a double. */
enum cxx_parse cxx_double_parse(const char *text, size_t n, bool hex, double *ret);

#ifdef __cplusplus
}
#endif
