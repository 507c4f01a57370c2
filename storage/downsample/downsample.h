/*
 * Downsampling: of a block with all samples, one small block for each aggregate with a few samples for each window of 5 minutes or an hour.
 *
 * Windows are half open at their beginning, as PromQL's ranges are: window k of resolution R is (kR, (k+1)R]. A range whose beginning and end are multiples of R
 * consists of whole windows. Of the float samples of a series in a window, stale markers left out, the aggregates say:
 *   count     how many there are
 *   sum       their sum, by compensated addition
 *   min, max  the least and the largest, the first of equal ones; NaN only when there is nothing else
 *   counter   those samples, as they are, that the increase of a counter depends on: the first, the last, and both sides of every fall
 * Each of the first four is one sample, and its time is that *of the last sample in the window*. So no time occurs twice, even where a window is cut in two by the
 * end of a block: the two parts have two times within the same window, and a range that has the window has both. A range over aggregates is then
 * evaluated like any other: the sum of the counts, the least of the minima, the increase of the counter. README.md says which answers are exact.
 *
 * An aggregate's block is an ordinary block, with the labels of the series as they were; that it is an aggregate is told by where it lies (downsample_room), by
 * thanos.downsample.resolution and by the external label __downsample__ in its meta.json. It has the ULID, times and sources of the block that it was made of, which
 * makes everything about it repeatable: the same block gives the same bytes under the same name.
 *
 * Native histograms are left to the blocks with all samples. An aggregate of a block that has some carries DOWNSAMPLE_HINT_HISTOGRAMS in compaction.hints. Whose they are stands in
 * the external label DOWNSAMPLE_HISTOGRAMS_LABEL, since bucket indexes have those: the names of the metrics with a comma before and after each, ",latency,size,", so that a comma alone means none; "*" where they
 * are too many (1 KiB) or have commas themselves.
 * A series that falls so often that it is no counter (more than one sample in DOWNSAMPLE_FALLS_ONE_IN, and DOWNSAMPLE_FALLS_MIN times) is not in "counter".
 *
 * Pure code but for the files; no locks, no threads of its own.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/ctx.h"
#include "base/err.h"
#include "model/limits.h"
#include "storage/block/block.h"
#include "storage/bucket/bucket.h"
#include "storage/queryable.h" /* enum downsample_aggregate */

#define DOWNSAMPLE_LABEL "__downsample__"
#define DOWNSAMPLE_HINT_HISTOGRAMS "histograms-left-out"
#define DOWNSAMPLE_HISTOGRAMS_LABEL "__downsample_histograms__"
#define DOWNSAMPLE_FOLDER "downsampled/" /* below the tenant's */
#define DOWNSAMPLE_FALLS_ONE_IN 8
#define DOWNSAMPLE_FALLS_MIN 8

enum downsample_resolution { DOWNSAMPLE_5M, DOWNSAMPLE_1H, DOWNSAMPLE_RESOLUTIONS };

const char *downsample_resolution_name(enum downsample_resolution r); /* "5m", "1h" */
int64_t downsample_resolution_ms(enum downsample_resolution r);
const char *downsample_aggregate_name(enum downsample_aggregate a); /* "count", "sum", "min", "max", "counter" */

/* compactor_downsample_<r>_after: how old a day must be. */
int64_t downsample_after_ms(const struct limits *l, enum downsample_resolution r);
/* compactor_downsample_<r>_retention, or that of the raw blocks where it is 0; 0: for ever. */
int64_t downsample_retention_ms(const struct limits *l, enum downsample_resolution r);
/* The longest windows that the tenant's queries may read. 0: none. */
int64_t downsample_max_resolution_ms(const struct limits *l);

/*
 * "<tenant>/downsampled/<resolution>-<aggregate>": where the blocks of one aggregate lie, laid out as a tenant's are, with a bucket index and marks of their own.
 * To be given to storage/bucket in the place of a tenant. Whoever lists a tenant's blocks, a Mimir too, passes over the folder.
 */
struct bucket_name downsample_room(struct slice tenant, enum downsample_resolution r, enum downsample_aggregate a);
/* Of the folder's name, "5m-sum". */
bool downsample_room_parse(struct slice folder, enum downsample_resolution *ret_r, enum downsample_aggregate *ret_a);
/* The tenant of a room, or of a tenant's name itself. */
struct slice downsample_tenant_of(struct slice place);
/* The name that follows the tenant's in a room's, "downsampled/5m-sum"; false: it is no room. */
bool downsample_room_of(struct slice place, enum downsample_resolution *ret_r, enum downsample_aggregate *ret_a);
/* Whether the aggregates of the block say all about the metric of this name (empty: about any metric). */
bool downsample_is_all_of(const struct index_block *aggregate, struct slice metric_name);
/* The rooms that a listing of the tenant shows; a late one may lack some. */
struct downsample_rooms {
    bool there[DOWNSAMPLE_RESOLUTIONS][DOWNSAMPLE_AGGREGATES];
    size_t n;
};
bool downsample_rooms_list(struct objstore *s, const struct ctx *ctx, struct slice tenant, struct downsample_rooms *ret, struct err *err);

/* --- samples ---------------------------------------------------------------------------------------------------------------- */

/* Floats of one series by ascending time. */
struct downsample_column {
    size_t n;
    const int64_t *t;
    const double *v;
};
/*
 * The aggregate of a column, in the arena. `again`: the column is already that aggregate, of a finer resolution that divides resolution_ms; else it is raw samples,
 * without stale markers. False: no memory.
 */
bool downsample_column(enum downsample_aggregate a, bool again, int64_t resolution_ms, const struct downsample_column *in, struct arena *arena,
                       struct downsample_column *ret);
/* Whether raw samples are taken for those of a counter. */
bool downsample_is_counter(const struct downsample_column *raw);

/* --- blocks ----------------------------------------------------------------------------------------------------------------- */

struct downsample_params {
    struct block *source; /* open; raw, or of `only` and a finer resolution */
    bool again;           /* the latter: one result */
    enum downsample_aggregate only; /* with again */
    enum downsample_resolution resolution;
    const char *dir; /* the results are <dir>/<aggregate>/<ulid>; the folders <dir>/<aggregate> are made */
};
struct downsample_stats {
    uint64_t series;       /* with float samples */
    uint64_t samples;      /* raw ones that the result speaks of: floats without stale markers. Of an aggregate made again that is not "count": its own */
    uint64_t histograms;   /* left out */
    uint64_t samples_out[DOWNSAMPLE_AGGREGATES];
};
/*
 * Makes the five blocks of a raw one, or the one coarser block of an aggregate. Memory: one series decoded, and a block_writer for each result. ctx is looked at
 * every hundred series. ERR_CORRUPT: the source cannot be read. Chunks that overlap are merged as by a compaction. What was made before a failure is the caller's to
 * remove, with dir.
 */
bool downsample_block(const struct downsample_params *p, const struct ctx *ctx, struct downsample_stats *ret, struct err *err);
/*
 * Looks through results before they are believed: each as block_verify does, and the counts in "count" add up to the samples that were read. A block of "count"
 * that was made again has the sum of the finer one.
 */
bool downsample_verify(const struct downsample_params *p, const struct downsample_stats *stats, const struct ctx *ctx, struct err *err);
