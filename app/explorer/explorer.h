/*
 * The explorer page: /explore and what it loads, no outside host. The plots are Chart.js's, a package of the build. Its style sheet,
 * static/explore.css, is that of every page. Private to app/.
 */
#pragma once

#include "net/http.h"

/* To be added with the struct process as argument. */
extern const struct http_route explorer_routes[];
extern const size_t explorer_routes_n;
