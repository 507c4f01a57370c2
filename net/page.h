/*
 * The frame of the pages for people: head, navigation, style sheet, and the headers that keep a browser from loading anything of another host. A room
 * writes its own page between page_begin and page_end; most pages give the same facts as JSON when that is asked for.
 *
 * Links are relative to the page, so that pages also work behind a proxy's path.
 */
#pragma once

#include <stdbool.h>

#include "base/buf.h"
#include "base/slice.h"
#include "net/http.h"

struct page_link {
    const char *path; /* from the root, without a leading slash */
    const char *text;
};

/* What every page of this process has. */
struct page_frame {
    const char *brand; /* HTML */
    const char *style; /* path of the style sheet, as in a link */
    const struct page_link *links;
    size_t n_links;
};
/* Before the server starts; must live as long as it. */
void page_set_frame(const struct page_frame *frame);

/* title is text, or "" for the first page; the link of the same text is marked. */
void page_begin(struct http_request *req, struct buf *out, const char *title);
/* Ends the page and answers with it, 200. */
void page_end(struct http_request *req, struct buf *out);
/* "../" as often as the request's path is deep: the start of a link to another page. */
void page_root(struct http_request *req, struct buf *out);
/* Text inside an element or a quoted attribute. */
void page_text(struct buf *out, struct slice text);
/* The headers of page_end alone, for files that a page loads; before responding. */
void page_set_headers(struct http_request *req);
/* The client asks for application/json. */
bool page_wants_json(const struct http_request *req);
