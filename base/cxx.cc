// The doors to RE2 and <charconv>; see cxx_int.h. Everything else of regex.h and dtoa.h is C.
#include "base/cxx_int.h"

#include <charconv>
#include <cstring>
#include <map>
#include <new>
#include <string>
#include <system_error>
#include <vector>

#include <re2/re2.h>

struct cxx_re2 {
    RE2 re;
    cxx_re2(const re2::StringPiece &pattern, const RE2::Options &options) : re(pattern, options) {}
};

static enum cxx_re2_error error_of(RE2::ErrorCode code)
{
    switch (code) {
    case RE2::NoError: return CXX_RE2_OK;
    case RE2::ErrorInternal: return CXX_RE2_INTERNAL;
    case RE2::ErrorBadEscape: return CXX_RE2_BAD_ESCAPE;
    case RE2::ErrorBadCharClass: return CXX_RE2_BAD_CHAR_CLASS;
    case RE2::ErrorBadCharRange: return CXX_RE2_BAD_CHAR_RANGE;
    case RE2::ErrorMissingBracket: return CXX_RE2_MISSING_BRACKET;
    case RE2::ErrorMissingParen: return CXX_RE2_MISSING_PAREN;
    case RE2::ErrorUnexpectedParen: return CXX_RE2_UNEXPECTED_PAREN;
    case RE2::ErrorTrailingBackslash: return CXX_RE2_TRAILING_BACKSLASH;
    case RE2::ErrorRepeatArgument: return CXX_RE2_REPEAT_ARGUMENT;
    case RE2::ErrorRepeatSize: return CXX_RE2_REPEAT_SIZE;
    case RE2::ErrorRepeatOp: return CXX_RE2_REPEAT_OP;
    case RE2::ErrorBadPerlOp: return CXX_RE2_BAD_PERL_OP;
    case RE2::ErrorBadUTF8: return CXX_RE2_BAD_UTF8;
    case RE2::ErrorBadNamedCapture: return CXX_RE2_BAD_NAMED_CAPTURE;
    case RE2::ErrorPatternTooLarge: return CXX_RE2_TOO_LARGE;
    }
    return CXX_RE2_INTERNAL;
}

extern "C" struct cxx_re2 *cxx_re2_new(const char *pattern, size_t n, int64_t max_mem_bytes, enum cxx_re2_error *ret_code, char *ret_arg,
                                       size_t arg_cap)
{
    try {
        RE2::Options options(RE2::Quiet);
        options.set_dot_nl(true);
        options.set_max_mem(max_mem_bytes);
        struct cxx_re2 *re = new cxx_re2(re2::StringPiece(pattern, n), options);
        if (re->re.ok())
            return re;
        *ret_code = error_of(re->re.error_code());
        const std::string &arg = re->re.error_arg();
        size_t keep = arg.size() < arg_cap ? arg.size() : arg_cap - 1;
        memcpy(ret_arg, arg.data(), keep);
        ret_arg[keep] = 0;
        delete re;
    } catch (const std::bad_alloc &) {
        *ret_code = CXX_RE2_NO_MEMORY;
        *ret_arg = 0;
    }
    return nullptr;
}

extern "C" void cxx_re2_free(struct cxx_re2 *re)
{
    delete re;
}

extern "C" bool cxx_re2_match(const struct cxx_re2 *re, const char *text, size_t n, ptrdiff_t *groups, int n_groups)
{
    // An empty text still needs an address: RE2 tells "no part of the match" from "empty" by the pointer.
    re2::StringPiece whole(n ? text : "", n);
    re2::StringPiece few[16];
    std::vector<re2::StringPiece> many;
    re2::StringPiece *found = few;
    if (n_groups > 16) {
        many.resize(static_cast<size_t>(n_groups));
        found = many.data();
    }
    if (!re->re.Match(whole, 0, n, RE2::ANCHOR_BOTH, n_groups ? found : nullptr, n_groups))
        return false;
    for (int i = 0; i < n_groups; i++) {
        bool took_part = found[i].data() != nullptr;
        groups[2 * i] = took_part ? found[i].data() - whole.data() : -1;
        groups[2 * i + 1] = took_part ? groups[2 * i] + static_cast<ptrdiff_t>(found[i].size()) : -1;
    }
    return true;
}

extern "C" int cxx_re2_size(const struct cxx_re2 *re)
{
    // The reverse program, made when first used, is about as long.
    return 2 * re->re.ProgramSize();
}

extern "C" int cxx_re2_n_groups(const struct cxx_re2 *re)
{
    return re->re.NumberOfCapturingGroups();
}

extern "C" int cxx_re2_group_by_name(const struct cxx_re2 *re, const char *name, size_t n)
{
    const std::map<std::string, int> &names = re->re.NamedCapturingGroups();
    auto it = names.find(std::string(name, n));
    return it == names.end() ? -1 : it->second;
}

extern "C" size_t cxx_double_to_scientific(double v, char *out)
{
    std::to_chars_result r = std::to_chars(out, out + 32, v, std::chars_format::scientific);
    return static_cast<size_t>(r.ptr - out);
}

extern "C" enum cxx_parse cxx_double_parse(const char *text, size_t n, bool hex, double *ret)
{
    std::from_chars_result r = std::from_chars(text, text + n, *ret, hex ? std::chars_format::hex : std::chars_format::general);
    if (r.ec == std::errc::result_out_of_range)
        return CXX_PARSE_RANGE;
    return r.ec == std::errc() && r.ptr == text + n ? CXX_PARSE_OK : CXX_PARSE_BAD;
}
