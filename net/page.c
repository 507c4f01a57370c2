#include "net/page.h"

#include <string.h>

static const struct page_frame *frame = &(struct page_frame){.brand = "", .style = ""};

void page_set_frame(const struct page_frame *f)
{
    frame = f;
}

void page_root(struct http_request *req, struct buf *out)
{
    struct slice path = http_path(req);
    for (size_t i = 1; i < path.n; i++)
        if (path.p[i] == '/')
            buf_puts(out, "../");
}

void page_text(struct buf *out, struct slice text)
{
    for (size_t i = 0; i < text.n; i++) {
        switch (text.p[i]) {
        case '&':
            buf_puts(out, "&amp;");
            break;
        case '<':
            buf_puts(out, "&lt;");
            break;
        case '>':
            buf_puts(out, "&gt;");
            break;
        case '"':
            buf_puts(out, "&quot;");
            break;
        default:
            buf_putc(out, text.p[i]);
        }
    }
}

void page_begin(struct http_request *req, struct buf *out, const char *title)
{
    buf_puts(out, "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
                  "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"><title>");
    page_text(out, slice_of(title));
    buf_printf(out, "%s%s</title><link rel=\"icon\" href=\"data:,\"><link rel=\"stylesheet\" href=\"", title[0] ? " - " : "",
               frame->brand);
    page_root(req, out);
    buf_printf(out, "%s\"></head>\n<body><header><a class=\"brand\" href=\"./", frame->style);
    page_root(req, out);
    buf_printf(out, "\">%s</a><nav>", frame->brand);
    for (size_t i = 0; i < frame->n_links; i++) {
        const struct page_link *link = &frame->links[i];
        buf_puts(out, "<a href=\"");
        page_root(req, out);
        buf_printf(out, "%s\"%s>%s</a>\n", link->path, strcmp(link->text, title) ? "" : " aria-current=\"page\"", link->text);
    }
    buf_puts(out, "</nav></header>\n<main class=\"text\">\n");
}

void page_end(struct http_request *req, struct buf *out)
{
    buf_puts(out, "</main></body></html>\n");
    page_set_headers(req);
    http_respond(req, 200, "text/html; charset=utf-8", out);
}

void page_set_headers(struct http_request *req)
{
    http_set_header(req, "Content-Security-Policy",
                    "default-src 'self'; img-src 'self' data:; base-uri 'none'; frame-ancestors 'self'");
    http_set_header(req, "X-Content-Type-Options", "nosniff");
}

bool page_wants_json(const struct http_request *req)
{
    struct slice accept = http_header(req, "Accept");
    return accept.n && memmem(accept.p, accept.n, "application/json", 16);
}
