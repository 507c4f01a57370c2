/*
 * The lexer of PromQL, for re2c.
 *
 * Three states, as the language has it: expressions; inside { }, where keywords are plain names; after [, where only durations and their arithmetic
 * may stand. A number leaves the last one: what follows inside the brackets is lexed as an expression again, with bracket_open saying that names
 * are not allowed and ':' is a separator. Numbers and strings are scanned by hand: an error shows how far the scan had come.
 *
 * The text is ended by a NUL that does not belong to it, so that no rule needs to look for the end.
 */
#include "read/promql/parse_int.h"

#include <string.h>

#include "base/utf8.h"
#include "grammar.h"

static struct token token_at(const struct lexer *lx, int type, const char *start)
{
    return (struct token){.type = type, .start = (int32_t)(start - lx->text), .end = (int32_t)(lx->cur - lx->text)};
}

static struct token fail(const struct lexer *lx, const char *at, const char *text)
{
    buf_clear(lx->message);
    buf_puts(lx->message, text);
    return token_at(lx, T_ERROR, at);
}

static uint32_t rune_at(const struct lexer *lx, const char *at)
{
    size_t size;
    return at < lx->end ? utf8_decode(slice_make(at, (size_t)(lx->end - at)), &size) : 0xFFFD;
}

/* "<text>: 'r'", where r is the rune at `shown`. */
static struct token fail_rune(const struct lexer *lx, const char *at, const char *text, const char *shown)
{
    struct token t = fail(lx, at, text);
    put_quoted_rune(lx->message, rune_at(lx, shown));
    return t;
}

/* --- numbers and durations ---------------------------------------------------------------------------------------------------- */

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_alpha(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

static bool one_of(char c, const char *set)
{
    return c && strchr(set, c);
}

static bool accept(struct lexer *lx, const char *set)
{
    bool yes = one_of(*lx->cur, set);
    lx->cur += yes;
    return yes;
}

/*
 * Takes in [.][d][d._eE]*. False when it is no number; cur is then where that became clear. What it lets pass may still be no number (1__0): the
 * conversion finds out.
 */
static bool scan_number(struct lexer *lx)
{
    const char *start = lx->cur;
    const char *digits = "0123456789";
    bool hex = false;
    if (accept(lx, "0") && accept(lx, "xX")) {
        accept(lx, "_");
        digits = "0123456789abcdefABCDEF";
        hex = true;
    }
    accept(lx, ".");
    accept(lx, digits);
    bool dot = false;
    bool exponent = false;
    while (one_of(*lx->cur, digits) || one_of(*lx->cur, "._eE")) {
        if ((dot && *lx->cur == '.') || (exponent && one_of(*lx->cur, "eE"))) {
            lx->cur++;
            return false;
        }
        if (accept(lx, ".")) {
            dot = true;
            if (accept(lx, "_.") || hex)
                return false;
        } else if (accept(lx, "eE")) {
            exponent = true;
            accept(lx, "+-");
            if (accept(lx, "._eE") || lx->cur == lx->end)
                return false;
        } else if (accept(lx, "_")) {
            if (accept(lx, "._eE") || lx->cur == lx->end)
                return false;
        } else {
            while (accept(lx, digits)) {
            }
        }
    }
    return lx->cur > start && !is_alpha(*lx->cur) && !is_digit(*lx->cur);
}

/* After the digits of a duration: its unit, and more digits with units. Which units may follow which is the conversion's matter. */
static bool scan_duration(struct lexer *lx)
{
    if (!accept(lx, "smhdwy"))
        return false;
    accept(lx, "s");
    while (is_digit(*lx->cur)) {
        while (is_digit(*lx->cur))
            lx->cur++;
        if (!accept(lx, "smhdw"))
            return false;
        accept(lx, "s");
    }
    if (!is_alpha(*lx->cur))
        return true;
    lx->cur++;
    return false;
}

static struct token lex_number(struct lexer *lx, const char *start)
{
    lx->cur = start;
    if (scan_number(lx))
        return token_at(lx, T_NUMBER, start);
    if (scan_duration(lx))
        return token_at(lx, T_DURATION, start);
    struct token t = fail(lx, start, "bad number or duration syntax: ");
    put_quoted(lx->message, slice_make(start, (size_t)(lx->cur - start)));
    return t;
}

/* --- strings ------------------------------------------------------------------------------------------------------------------ */

static uint32_t digit_value(char c)
{
    if (is_digit(c))
        return (uint32_t)(c - '0');
    char lower = (char)(c | 0x20);
    return lower >= 'a' && lower <= 'f' ? (uint32_t)(lower - 'a') + 10 : 16;
}

/* An escape of n digits at cur. NULL, or what is wrong. */
static const char *scan_digits(struct lexer *lx, int n, uint32_t base, uint32_t max)
{
    uint32_t v = 0;
    for (; n > 0; n--) {
        if (lx->cur == lx->end)
            return "escape sequence not terminated";
        uint32_t d = digit_value(*lx->cur);
        if (d >= base) {
            buf_clear(lx->message);
            buf_puts(lx->message, "illegal character ");
            put_unicode(lx->message, rune_at(lx, lx->cur));
            buf_puts(lx->message, " in escape sequence");
            return "";
        }
        v = v * base + d;
        lx->cur++;
    }
    return v > max || (v >= 0xD800 && v < 0xE000) ? "escape sequence is an invalid Unicode code point" : NULL;
}

/* After a backslash. NULL, or what is wrong; "": the message is there already. */
static const char *scan_escape(struct lexer *lx, char quote)
{
    if (lx->cur == lx->end)
        return "escape sequence not terminated";
    char c = *lx->cur;
    if (one_of(c, "abfnrtv\\") || c == quote) {
        lx->cur++;
        return NULL;
    }
    if (c >= '0' && c <= '7')
        return scan_digits(lx, 3, 8, 255);
    if (!one_of(c, "xuU")) {
        buf_clear(lx->message);
        buf_puts(lx->message, "unknown escape sequence ");
        put_unicode(lx->message, rune_at(lx, lx->cur));
        return "";
    }
    lx->cur++;
    return c == 'x' ? scan_digits(lx, 2, 16, 255) : scan_digits(lx, c == 'u' ? 4 : 8, 16, 0x10FFFF);
}

/* A string whose quote has been read. All its errors point at that quote. */
static struct token lex_string(struct lexer *lx, const char *start)
{
    char quote = *start;
    bool raw = quote == '`';
    for (;;) {
        if (lx->cur == lx->end || (!raw && *lx->cur == '\n'))
            return fail(lx, start, raw ? "unterminated raw string" : "unterminated quoted string");
        size_t size = 1;
        if (*lx->cur & 0x80) {
            uint32_t r = utf8_decode(slice_make(lx->cur, (size_t)(lx->end - lx->cur)), &size);
            if (r == 0xFFFD && size == 1)
                return fail(lx, start, "invalid UTF-8 rune");
        }
        char c = *lx->cur;
        lx->cur += size;
        if (c == quote)
            return token_at(lx, T_STRING, start);
        if (c == '\\' && !raw) {
            const char *wrong = scan_escape(lx, quote);
            if (wrong && *wrong)
                return fail(lx, start, wrong);
            if (wrong)
                return token_at(lx, T_ERROR, start);
        }
    }
}

/* --- names -------------------------------------------------------------------------------------------------------------------- */

/* fill, fill_left and fill_right are keywords before a parenthesis only: there are metrics of these names. */
static struct token lex_fill(const struct lexer *lx, int type, const char *start)
{
    const char *p = lx->cur;
    while (one_of(*p, " \t\r\n"))
        p++;
    return token_at(lx, *p == '(' ? type : T_IDENTIFIER, start);
}

/* step, range, max_of, min_of at cur; 0: some other word, or none. cur moves past the word. */
static int scan_duration_word(struct lexer *lx)
{
    static const struct {
        const char *word;
        int type;
    } words[] = {{"step", T_STEP}, {"range", T_RANGE}, {"max_of", T_MAX_OF}, {"min_of", T_MIN_OF}};
    const char *start = lx->cur;
    while (is_alpha(*lx->cur))
        lx->cur++;
    size_t n = (size_t)(lx->cur - start);
    for (size_t i = 0; i < ARRAY_LEN(words); i++)
        if (n == strlen(words[i].word) && strncasecmp(start, words[i].word, n) == 0)
            return words[i].type;
    return 0;
}

/* A name or a colon between [ and ]. */
static struct token lex_in_brackets(struct lexer *lx, const char *start)
{
    lx->cur = start + 1;
    if (*start == ':') {
        if (lx->got_colon)
            return fail(lx, start, "unexpected colon ':'");
        lx->got_colon = true;
        return token_at(lx, T_COLON, start);
    }
    if (one_of(*start, "sSrRmM")) {
        lx->cur = start;
        int type = scan_duration_word(lx);
        if (type)
            return token_at(lx, type, start);
    }
    struct token t = fail_rune(lx, start, "unexpected character: ", start);
    buf_puts(lx->message, ", expected ':'");
    return t;
}

/* --- states ------------------------------------------------------------------------------------------------------------------- */

static struct token close_paren(struct lexer *lx, const char *start)
{
    if (--lx->paren_depth < 0)
        return fail(lx, lx->cur, "unexpected right parenthesis ')'");
    return token_at(lx, T_RIGHT_PAREN, start);
}

static struct token end_of_text(struct lexer *lx, const char *start)
{
    if (lx->paren_depth)
        return fail(lx, start, "unclosed left parenthesis");
    if (lx->bracket_open)
        return fail(lx, start, "unclosed left bracket");
    return token_at(lx, T_EOF, start);
}

/*!re2c
    re2c:api = custom;
    re2c:api:style = free-form;
    re2c:define:YYCTYPE = "unsigned char";
    re2c:define:YYPEEK = "(unsigned char)*lx->cur";
    re2c:define:YYSKIP = "++lx->cur;";
    re2c:define:YYBACKUP = "marker = lx->cur;";
    re2c:define:YYRESTORE = "lx->cur = marker;";
    re2c:define:YYLESSTHAN = "lx->cur >= lx->end";
    re2c:yyfill:enable = 0;
    re2c:eof = 0;

    blank = [ \t\r\n];
    comment = "#" [^\r\n]*;
    digit = [0-9];
    alpha = [a-zA-Z_];
    name = alpha (alpha | digit)*;
    metric = (alpha | ":") (alpha | digit | ":")*;
    simple_string = ["] [^"\\\n\x00\x80-\xff]* ["] | ['] [^'\\\n\x00\x80-\xff]* ['];
*/

#define EMIT(type) return token_at(lx, (type), start)
#define WORD(type)                                                                                                                     \
    do {                                                                                                                               \
        if (lx->bracket_open)                                                                                                          \
            return lex_in_brackets(lx, start);                                                                                         \
        EMIT(type);                                                                                                                    \
    } while (0)

static struct token lex_expression(struct lexer *lx)
{
    const char *marker;
    const char *start;
again:
    start = lx->cur;
    /*!re2c
    blank+      { goto again; }
    comment     { goto again; }
    $           { return end_of_text(lx, start); }
    ","         { EMIT(T_COMMA); }
    "*"         { EMIT(T_MUL); }
    "/"         { EMIT(T_DIV); }
    "%"         { EMIT(T_MOD); }
    "+"         { EMIT(T_ADD); }
    "-"         { EMIT(T_SUB); }
    "^"         { EMIT(T_POW); }
    "=="        { EMIT(T_EQLC); }
    "=~"        { return fail(lx, start, "unexpected character after '=': '~'"); }
    "="         { EMIT(T_EQL); }
    "!="        { EMIT(T_NEQ); }
    "!"         { return fail_rune(lx, start, "unexpected character after '!': ", lx->cur); }
    "<="        { EMIT(T_LTE); }
    "</"        { EMIT(T_TRIM_UPPER); }
    "<"         { EMIT(T_LSS); }
    ">="        { EMIT(T_GTE); }
    ">/"        { EMIT(T_TRIM_LOWER); }
    ">"         { EMIT(T_GTR); }
    "@"         { EMIT(T_AT); }
    "("         { lx->paren_depth++; EMIT(T_LEFT_PAREN); }
    ")"         { return close_paren(lx, start); }
    "{"         { lx->state = LEX_BRACES; EMIT(T_LEFT_BRACE); }
    "["         {
        if (lx->bracket_open)
            return fail(lx, start, "unexpected left bracket '['");
        lx->got_colon = false;
        lx->bracket_open = true;
        lx->state = LEX_DURATION;
        EMIT(T_LEFT_BRACKET);
    }
    "]"         {
        if (!lx->bracket_open)
            return fail(lx, start, "unexpected right bracket ']'");
        lx->bracket_open = false;
        EMIT(T_RIGHT_BRACKET);
    }
    "."? digit  { return lex_number(lx, start); }
    simple_string { EMIT(T_STRING); }
    ["'`]       { return lex_string(lx, start); }

    'and'       { WORD(T_LAND); }
    'or'        { WORD(T_LOR); }
    'unless'    { WORD(T_LUNLESS); }
    'atan2'     { WORD(T_ATAN2); }
    'sum'       { WORD(T_SUM); }
    'avg'       { WORD(T_AVG); }
    'count'     { WORD(T_COUNT); }
    'min'       { WORD(T_MIN); }
    'max'       { WORD(T_MAX); }
    'group'     { WORD(T_GROUP); }
    'stddev'    { WORD(T_STDDEV); }
    'stdvar'    { WORD(T_STDVAR); }
    'topk'      { WORD(T_TOPK); }
    'bottomk'   { WORD(T_BOTTOMK); }
    'count_values' { WORD(T_COUNT_VALUES); }
    'quantile'  { WORD(T_QUANTILE); }
    'limitk'    { WORD(T_LIMITK); }
    'limit_ratio' { WORD(T_LIMIT_RATIO); }
    'offset'    { WORD(T_OFFSET); }
    'smoothed'  { WORD(T_SMOOTHED); }
    'anchored'  { WORD(T_ANCHORED); }
    'by'        { WORD(T_BY); }
    'without'   { WORD(T_WITHOUT); }
    'on'        { WORD(T_ON); }
    'ignoring'  { WORD(T_IGNORING); }
    'group_left' { WORD(T_GROUP_LEFT); }
    'group_right' { WORD(T_GROUP_RIGHT); }
    'bool'      { WORD(T_BOOL); }
    'start'     { WORD(T_START); }
    'end'       { WORD(T_END); }
    'step'      { WORD(T_STEP); }
    'range'     { WORD(T_RANGE); }
    'max_of'    { WORD(T_MAX_OF); }
    'min_of'    { WORD(T_MIN_OF); }
    'inf' | 'nan' { WORD(T_NUMBER); }
    'fill'      { if (lx->bracket_open) return lex_in_brackets(lx, start); return lex_fill(lx, T_FILL, start); }
    'fill_left' { if (lx->bracket_open) return lex_in_brackets(lx, start); return lex_fill(lx, T_FILL_LEFT, start); }
    'fill_right' { if (lx->bracket_open) return lex_in_brackets(lx, start); return lex_fill(lx, T_FILL_RIGHT, start); }
    name        { WORD(T_IDENTIFIER); }
    metric      { WORD(T_METRIC_IDENTIFIER); }
    *           { return fail_rune(lx, start, "unexpected character: ", start); }
    */
}

static struct token lex_braces(struct lexer *lx)
{
    const char *marker;
    const char *start;
again:
    start = lx->cur;
    /*!re2c
    blank+      { goto again; }
    comment     { goto again; }
    $           { return fail(lx, start, "unexpected end of input inside braces"); }
    ","         { EMIT(T_COMMA); }
    "=~"        { EMIT(T_EQL_REGEX); }
    "="         { EMIT(T_EQL); }
    "!~"        { EMIT(T_NEQ_REGEX); }
    "!="        { EMIT(T_NEQ); }
    "!"         { return fail_rune(lx, start, "unexpected character after '!' inside braces: ", lx->cur); }
    "{"         { return fail(lx, start, "unexpected left brace '{'"); }
    "}"         { lx->state = LEX_EXPRESSION; EMIT(T_RIGHT_BRACE); }
    simple_string { EMIT(T_STRING); }
    ["'`]       { return lex_string(lx, start); }
    name        { EMIT(T_IDENTIFIER); }
    *           { return fail_rune(lx, start, "unexpected character inside braces: ", start); }
    */
}

/* A colon straight after [ or an operator. Its errors point behind it. */
static struct token duration_colon(struct lexer *lx, const char *start)
{
    if (!lx->got_duration)
        return fail(lx, lx->cur, "unexpected colon before duration in duration expression");
    if (lx->got_colon)
        return fail(lx, lx->cur, "unexpected repeated colon in duration expression");
    lx->got_colon = true;
    return token_at(lx, T_COLON, start);
}

static struct token lex_duration(struct lexer *lx)
{
    const char *marker;
    const char *start;
again:
    start = lx->cur;
    /*!re2c
    blank+      { goto again; }
    $           { return fail(lx, start, "unexpected end of input in duration expression"); }
    "]"         { lx->bracket_open = lx->got_colon = false; lx->state = LEX_EXPRESSION; EMIT(T_RIGHT_BRACKET); }
    ":"         { return duration_colon(lx, start); }
    "("         { lx->paren_depth++; EMIT(T_LEFT_PAREN); }
    ")"         { return close_paren(lx, start); }
    "+"         { EMIT(T_ADD); }
    "-"         { EMIT(T_SUB); }
    "*"         { EMIT(T_MUL); }
    "/"         { EMIT(T_DIV); }
    "%"         { EMIT(T_MOD); }
    "^"         { EMIT(T_POW); }
    ","         { EMIT(T_COMMA); }
    [sSrRmM]    {
        lx->cur = start;
        int type = scan_duration_word(lx);
        if (type)
            EMIT(type);
        return fail_rune(lx, start, "unexpected character in duration expression: ", start);
    }
    "."? digit  { lx->got_duration = true; lx->state = LEX_EXPRESSION; return lex_number(lx, start); }
    *           { return fail_rune(lx, start, "unexpected character in duration expression: ", start); }
    */
}

struct token promql_lex(struct lexer *lx)
{
    switch (lx->state) {
    case LEX_EXPRESSION: return lex_expression(lx);
    case LEX_BRACES: return lex_braces(lx);
    case LEX_DURATION: return lex_duration(lx);
    }
    ASSERT(false && "lexer state");
    return token_at(lx, T_EOF, lx->end);
}
