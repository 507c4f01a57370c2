/* The explorer page: /explore and what it loads, no outside host. The plots are Chart.js's, a package of the build. Private to app/. */
#pragma once

#include "net/http.h"

extern const struct http_route explorer_routes[];
extern const size_t explorer_routes_n;
