/* Listings of an S3 server, page after page. A page is told only when all of it was read and understood. See s3_int.h. */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "storage/objstore/s3_int.h"

struct listing {
    struct objstore *store;
    s3_page_fn *get;
    bool by_name; /* a page without a token goes on behind its last name */
    struct slice prefix;
    bool delimited;
    struct buf next; /* token or marker of the next page; empty: the first */
};

/* The parameters in the order of their names, as signatures want them. */
static void put_query(bool v1, struct slice prefix, bool delimited, struct slice next, struct buf *out)
{
    if (next.n && !v1) {
        buf_puts(out, "continuation-token=");
        s3_escape(out, next, false);
        buf_putc(out, '&');
    }
    if (delimited)
        buf_puts(out, "delimiter=%2F&");
    buf_puts(out, "encoding-type=url&");
    if (!v1)
        buf_puts(out, "list-type=2&");
    if (next.n && v1) {
        buf_puts(out, "marker=");
        s3_escape(out, next, false);
        buf_putc(out, '&');
    }
    buf_printf(out, "max-keys=%d&prefix=", S3_PAGE_NAMES);
    s3_escape(out, prefix, false);
}

/* One try at one page. */
static bool get_page(struct objstore *o, const struct ctx *ctx, struct slice prefix, bool delimited, struct slice next, struct s3_page *ret,
                     struct err *err)
{
    struct s3 *s = s3_of(o);
    struct buf query;
    struct s3_answer a = {0};
    buf_init(&query, 0);
    put_query(s->cfg.list_v1, prefix, delimited, next, &query);
    struct s3_request r = {.method = "GET", .query = buf_cstr(&query), .fd = -1};
    bool ok = s3_send(s, ctx, &r, &a, err);
    if (!ok && err->code == ERR_NOT_FOUND)
        err_set(err, ERR_IO, "there is no bucket \"%s\"", s->cfg.bucket);
    /* What cannot be read was perhaps cut on its way: worth another try. */
    if (ok && !s3_page_parse(buf_slice(&a.body), ret, err)) {
        err->code = ERR_UNAVAILABLE;
        ok = false;
    }
    s3_answer_release(&a);
    buf_release(&query);
    return ok;
}

static bool get_page_again(const struct listing *l, const struct ctx *ctx, struct s3_page *ret, struct err *err)
{
    struct objstore_tries t = {0};
    struct err why = ERR_NONE;
    bool ok;
    do {
        s3_page_release(ret);
        ok = l->get(l->store, ctx, l->prefix, l->delimited, buf_slice(&l->next), ret, &why);
    } while (!ok && objstore_try_again(&t, ctx, &why));
    return ok || err_set(err, why.code, "%s", why.text);
}

/* False: fn wants no more. Objects named like folders, which some programs make, are left out. */
static bool tell(const struct listing *l, const struct s3_page *p, objstore_list_fn *fn, void *arg)
{
    for (size_t i = 0; i < p->n; i++) {
        const struct s3_page_entry *e = &p->entries[i];
        struct slice name = slice_make(p->names.p + e->name_offset, e->name_n);
        struct objstore_attributes a = {.size = e->size, .modified_ms = e->modified_ms};
        bool is_folder = slice_has_suffix(name, SL("/"));
        if (!slice_has_prefix(name, l->prefix) || name.n == 0 || is_folder != e->is_prefix)
            continue;
        if (!fn(arg, name, e->is_prefix, &a))
            return false;
    }
    return true;
}

/* Takes where the next page begins; false when the server does not say it, or says what it said before: that listing would never end. */
static bool take_next(struct listing *l, const struct s3_page *p, struct err *err)
{
    struct slice next = buf_slice(&p->next);
    if (next.n == 0 && l->by_name) /* NextMarker comes with folders only */
        for (size_t i = 0; i < p->n; i++) {
            struct slice name = slice_make(p->names.p + p->entries[i].name_offset, p->entries[i].name_n);
            if (slice_cmp(name, next) > 0)
                next = name;
        }
    if (next.n == 0 || slice_eq(next, buf_slice(&l->next)))
        return err_set(err, ERR_IO, "the server's listing does not say how it goes on");
    buf_clear(&l->next);
    buf_put_slice(&l->next, next);
    return true;
}

bool s3_list_pages(struct objstore *o, s3_page_fn *get, bool by_name, const struct ctx *ctx, struct slice prefix, bool delimited,
                   objstore_list_fn *fn, void *arg, struct err *err)
{
    struct listing l = {.store = o, .get = get, .by_name = by_name, .prefix = prefix, .delimited = delimited};
    struct s3_page page = {0};
    bool ok = true, more = true;
    while (ok && more) {
        ok = get_page_again(&l, ctx, &page, err);
        more = ok && tell(&l, &page, fn, arg) && page.truncated;
        ok = ok && (!more || take_next(&l, &page, err));
    }
    s3_page_release(&page);
    buf_release(&l.next);
    return ok;
}

bool s3_list(struct objstore *o, const struct ctx *ctx, struct slice prefix, bool delimited, objstore_list_fn *fn, void *arg, struct err *err)
{
    return s3_list_pages(o, get_page, s3_of(o)->cfg.list_v1, ctx, prefix, delimited, fn, arg, err);
}
