/* Answers of S3 servers. See s3_xml_int.h. */
#include "storage/objstore/s3_xml_int.h"

#include <errno.h>
#include <expat.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/assert.h"

/* An element has ended: its name, that of the one around it (NULL at the root), and its text. False: the document is refused. */
typedef bool element_fn(void *arg, const char *name, const char *parent, struct slice text);

struct reader {
    XML_Parser parser;
    element_fn *fn;
    void *arg;
    int depth;
    char names[S3_XML_DEPTH_MAX][64];
    struct buf text;
    const char *refused; /* why */
};

static void refuse(struct reader *r, const char *why)
{
    if (!r->refused)
        r->refused = why;
    XML_StopParser(r->parser, XML_FALSE);
}

static void XMLCALL on_start(void *arg, const XML_Char *name, const XML_Char **attributes)
{
    struct reader *r = arg;
    (void)attributes;
    if (r->refused)
        return;
    if (r->depth == S3_XML_DEPTH_MAX) {
        refuse(r, "too many elements within each other");
        return;
    }
    snprintf(r->names[r->depth++], sizeof(r->names[0]), "%.63s", name);
    buf_clear(&r->text);
}

static void XMLCALL on_end(void *arg, const XML_Char *name)
{
    struct reader *r = arg;
    (void)name;
    if (r->refused)
        return;
    r->depth--;
    if (r->text.failed)
        refuse(r, "an element with too much text");
    else if (!r->fn(r->arg, r->names[r->depth], r->depth ? r->names[r->depth - 1] : NULL, buf_slice(&r->text)))
        refuse(r, "a value that cannot be");
    buf_clear(&r->text);
}

static void XMLCALL on_text(void *arg, const XML_Char *s, int n)
{
    struct reader *r = arg;
    buf_put(&r->text, s, (size_t)n);
}

/* Entities can be made in a DOCTYPE only. S3 has none. */
static void XMLCALL on_doctype(void *arg, const XML_Char *name, const XML_Char *sysid, const XML_Char *pubid, int has_internal_subset)
{
    (void)name, (void)sysid, (void)pubid, (void)has_internal_subset;
    refuse(arg, "a DOCTYPE");
}

static bool parse(struct slice xml, element_fn *fn, void *arg, struct err *err)
{
    struct reader r = {.fn = fn, .arg = arg};
    if (xml.n > INT32_MAX)
        return err_set(err, ERR_CORRUPT, "an XML document of %zu bytes", xml.n);
    buf_init(&r.text, S3_XML_TEXT_MAX);
    r.parser = XML_ParserCreate(NULL);
    ASSERT(r.parser);
    XML_SetUserData(r.parser, &r);
    XML_SetElementHandler(r.parser, on_start, on_end);
    XML_SetCharacterDataHandler(r.parser, on_text);
    XML_SetStartDoctypeDeclHandler(r.parser, on_doctype);
    bool ok = XML_Parse(r.parser, xml.p ? xml.p : "", (int)xml.n, 1) == XML_STATUS_OK && !r.refused;
    if (!ok)
        err_set(err, ERR_CORRUPT, "the server's XML at byte %lld: %s", (long long)XML_GetCurrentByteIndex(r.parser),
                r.refused ? r.refused : XML_ErrorString(XML_GetErrorCode(r.parser)));
    XML_ParserFree(r.parser);
    buf_release(&r.text);
    return ok;
}

static bool is(const char *name, const char *want)
{
    return name && strcmp(name, want) == 0;
}

/* --- errors --------------------------------------------------------------------------------------------------------- */

struct error_reader {
    struct s3_error *error;
    bool seen;
};

static void copy_text(char *ret, size_t cap, struct slice text)
{
    snprintf(ret, cap, "%.*s", (int)MIN(text.n, cap), text.p ? text.p : "");
}

static bool error_element(void *arg, const char *name, const char *parent, struct slice text)
{
    struct error_reader *r = arg;
    if (!parent && is(name, "Error"))
        r->seen = true;
    if (!is(parent, "Error"))
        return true;
    if (is(name, "Code"))
        copy_text(r->error->code, sizeof(r->error->code), text);
    else if (is(name, "Message"))
        copy_text(r->error->message, sizeof(r->error->message), text);
    else if (is(name, "Region"))
        copy_text(r->error->region, sizeof(r->error->region), text);
    return true;
}

bool s3_error_parse(struct slice xml, struct s3_error *ret)
{
    struct error_reader r = {.error = ret};
    *ret = (struct s3_error){0};
    if (parse(xml, error_element, &r, NULL) && r.seen)
        return true;
    *ret = (struct s3_error){0};
    return false;
}

/* --- uploads in parts ------------------------------------------------------------------------------------------------- */

static bool upload_id_element(void *arg, const char *name, const char *parent, struct slice text)
{
    if (is(parent, "InitiateMultipartUploadResult") && is(name, "UploadId"))
        buf_put_slice(arg, text);
    return true;
}

bool s3_upload_id_parse(struct slice xml, struct buf *ret, struct err *err)
{
    if (!parse(xml, upload_id_element, ret, err))
        return false;
    return (ret->n > 0 && !ret->failed) || err_set(err, ERR_CORRUPT, "the server named no upload");
}

static bool root_element(void *arg, const char *name, const char *parent, struct slice text)
{
    bool *seen = arg;
    (void)text;
    if (!parent)
        *seen = is(name, "CompleteMultipartUploadResult");
    return true;
}

bool s3_complete_parse(struct slice xml, struct s3_error *ret_error, struct err *err)
{
    bool seen = false;
    if (s3_error_parse(xml, ret_error))
        return false;
    if (!parse(xml, root_element, &seen, err))
        return false;
    return seen || err_set(err, ERR_CORRUPT, "the server did not say that the upload is complete");
}

/* --- listings --------------------------------------------------------------------------------------------------------- */

struct page_reader {
    struct s3_page *page;
    bool escaped; /* EncodingType */
    bool marker;  /* what comes next is named by a name, which is escaped like the others */
    bool seen;
    bool has_key; /* of the entry that is being read */
    struct s3_page_entry entry;
};

static int hex(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* In place; false when a % stands before no number. */
static bool unescape(struct buf *b, size_t from)
{
    size_t to = from;
    for (size_t i = from; i < b->n; i++) {
        char c = b->p[i] == '+' ? ' ' : b->p[i];
        if (c == '%') {
            int high = i + 2 < b->n ? hex(b->p[i + 1]) : -1;
            int low = i + 2 < b->n ? hex(b->p[i + 2]) : -1;
            if (high < 0 || low < 0)
                return false;
            c = (char)(high << 4 | low);
            i += 2;
        }
        b->p[to++] = c;
    }
    b->n = to;
    return true;
}

bool s3_page_add(struct s3_page *p, const struct s3_page_entry *e)
{
    if (p->n == S3_PAGE_ENTRIES_MAX)
        return false;
    if (p->n == p->cap) {
        p->cap = p->cap ? p->cap * 2 : 64;
        p->entries = realloc(p->entries, p->cap * sizeof(*p->entries));
        ASSERT(p->entries);
    }
    p->entries[p->n++] = *e;
    return true;
}

static bool put_entry(struct page_reader *r)
{
    bool ok = s3_page_add(r->page, &r->entry);
    r->entry = (struct s3_page_entry){0};
    r->has_key = false;
    return ok;
}

static bool read_number(struct slice text, uint64_t *ret)
{
    uint64_t v = 0;
    for (size_t i = 0; i < text.n; i++) {
        unsigned digit = (unsigned)(text.p[i] - '0');
        if (digit > 9 || __builtin_mul_overflow(v, 10, &v) || __builtin_add_overflow(v, digit, &v))
            return false;
    }
    *ret = v;
    return text.n > 0;
}

static void put_name(struct page_reader *r, struct slice text)
{
    r->entry.name_offset = r->page->names.n;
    buf_put_slice(&r->page->names, text);
    r->entry.name_n = r->page->names.n - r->entry.name_offset;
    r->has_key = !r->page->names.failed;
}

static bool content_element(struct page_reader *r, const char *name, struct slice text)
{
    if (is(name, "Key"))
        put_name(r, text);
    else if (is(name, "Size"))
        return read_number(text, &r->entry.size);
    else if (is(name, "LastModified"))
        return s3_time_parse(text, &r->entry.modified_ms);
    return true;
}

static bool page_element(void *arg, const char *name, const char *parent, struct slice text)
{
    struct page_reader *r = arg;
    if (!parent)
        r->seen = is(name, "ListBucketResult");
    else if (is(parent, "Contents"))
        return content_element(r, name, text);
    else if (is(parent, "CommonPrefixes") && is(name, "Prefix"))
        put_name(r, text);
    else if (is(parent, "ListBucketResult")) {
        if (is(name, "Contents") || is(name, "CommonPrefixes")) {
            r->entry.is_prefix = is(name, "CommonPrefixes");
            return r->has_key && put_entry(r);
        }
        if (is(name, "IsTruncated"))
            r->page->truncated = slice_eq(text, SL("true"));
        else if (is(name, "EncodingType"))
            r->escaped = slice_eq(text, SL("url"));
        else if (is(name, "NextContinuationToken") || is(name, "NextMarker")) {
            buf_clear(&r->page->next);
            buf_put_slice(&r->page->next, text);
            r->marker = is(name, "NextMarker");
        }
    }
    return true;
}

/* Names are decoded at the end, since EncodingType may come after them. They become shorter only, so they stay where they are. */
static bool unescape_names(struct s3_page *p)
{
    for (size_t i = 0; i < p->n; i++) {
        struct s3_page_entry *e = &p->entries[i];
        struct buf one = {.p = p->names.p + e->name_offset, .n = e->name_n, .cap = e->name_n};
        if (!unescape(&one, 0))
            return false;
        e->name_n = one.n;
    }
    return true;
}

bool s3_page_parse(struct slice xml, struct s3_page *ret, struct err *err)
{
    struct page_reader r = {.page = ret};
    *ret = (struct s3_page){0};
    if (!parse(xml, page_element, &r, err))
        return false;
    if (!r.seen)
        return err_set(err, ERR_CORRUPT, "the server's answer is no listing");
    if (r.escaped && (!unescape_names(ret) || (r.marker && !unescape(&ret->next, 0))))
        return err_set(err, ERR_CORRUPT, "the server's listing has a name that is not encoded as it says");
    return true;
}

void s3_page_release(struct s3_page *p)
{
    buf_release(&p->names);
    buf_release(&p->next);
    free(p->entries);
    *p = (struct s3_page){0};
}

bool s3_time_parse(struct slice text, int64_t *ret_ms)
{
    char copy[64];
    struct tm tm = {0};
    int end = 0;
    double fraction = 0;
    if (text.n >= sizeof(copy))
        return false;
    copy_text(copy, sizeof(copy), text);
    if (sscanf(copy, "%4d-%2d-%2dT%2d:%2d:%2d%n", &tm.tm_year, &tm.tm_mon, &tm.tm_mday, &tm.tm_hour, &tm.tm_min, &tm.tm_sec, &end) != 6)
        return false;
    if (copy[end] == '.') {
        char *after;
        fraction = strtod(copy + end, &after);
        end = (int)(after - copy);
    }
    bool in_range = tm.tm_year >= 1900 && tm.tm_mon >= 1 && tm.tm_mon <= 12 && tm.tm_mday >= 1 && tm.tm_mday <= 31 && tm.tm_hour >= 0 &&
                    tm.tm_hour < 24 && tm.tm_min >= 0 && tm.tm_min < 60 && tm.tm_sec >= 0 && tm.tm_sec <= 60 && fraction >= 0 && fraction < 1;
    if (!in_range || strcmp(copy + end, "Z") != 0)
        return false;
    tm.tm_year -= 1900;
    tm.tm_mon -= 1;
    *ret_ms = (int64_t)timegm(&tm) * 1000 + (int64_t)(fraction * 1000);
    return true;
}
