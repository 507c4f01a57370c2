/*
 * The load of tests/bench/ingest: series of a fleet of equal scrape targets ("pods"), 100 series each, and request bodies made of them.
 *
 * A pod has 2 classic histograms of 14 series, http_requests_total by code and method (20), 23 other counters and 29 gauges; 30 % of the
 * single counters and gauges never change. Plain series have 11 labels, buckets one more. Everything is a function of the series' number and
 * the scrape's, so every server gets the same bytes.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define POD_SERIES 100
#define LABELS_MAX 16

/* A run of consecutive series that one request carries; owned by one connection. */
struct block {
    long first;
    long n; /* a multiple of POD_SERIES, but for the last block */
    char *labels; /* encoded label entries of all series */
    uint32_t *labels_end;
    double *value; /* running value of each series */
};

void block_init(struct block *b, long first, long n);
void block_release(struct block *b);

struct body {
    char *p; /* snappy-compressed WriteRequest; owned */
    size_t n;
    size_t raw_n;
};

/* The block's samples of the next scrape, at time t_ms. Scrapes are asked for in order, from 0 on. */
struct body block_body(struct block *b, long scrape, int64_t t_ms);
