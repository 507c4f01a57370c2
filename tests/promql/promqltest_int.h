/*
 * Runner of Prometheus's promqltest scripts against our engine: what its files share.
 *
 *   promqltest.c   command line, evaluating and comparing
 *   script.c       the commands of a script
 *   notation.c     numbers, durations, label sets, sequences of values, histogram literals
 *   store.c        the series loaded so far, as a queryable over encoded chunks
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/slice.h"
#include "model/labels.h"
#include "read/promql/engine.h"
#include "read/promql/kernel_int.h"
#include "storage/queryable.h"

/* One item of a sequence: a float, a histogram, or nothing. */
struct item {
    bool omitted;
    bool hint_given; /* counter_reset_hint was written: compare it too */
    double v;
    struct fhist *h;
    int64_t start_ms; /* where a start timestamp was written: of the sample's time */
    bool started;
};

struct sequence {
    struct labels labels;
    struct item *items;
    size_t n, cap;
};

/* --- notation.c ------------------------------------------------------------------------------------------------------------------- */

struct slice trim(struct slice s);
/* Takes the next word (up to a blank) off the text. */
struct slice next_word(struct slice *text);
bool parse_number(struct slice s, double *ret);
/* "5m", "1h30m", "10s53ms", or seconds as a number. */
bool parse_time(struct slice s, int64_t *ret_ms);
/* name{a="b"} at the start of *text, which is moved past it. */
bool parse_labels(struct slice *text, struct arena *a, struct labels *ret);
/* name{...} v v+dxn _ stale {{...}}: the whole line. False with a message in *ret_why. */
bool parse_sequence(struct slice line, struct arena *a, struct sequence *ret, const char **ret_why);

/*
 * name{...}@st d d-dxn _: the start timestamps of the next line's samples, as durations from each sample's time. False in *ret_is: the line is another
 * one. The result is false, with a message in *ret_why, for one that cannot be parsed.
 */
bool parse_starts(struct slice line, struct arena *a, struct sequence *ret, bool *ret_is, const char **ret_why);

/* --- store.c ------------------------------------------------------------------------------------------------------------------------ */

struct store;
struct store *store_new(void);
void store_free(struct store *s);
void store_clear(struct store *s);
/* One `load` block: item i of a sequence is at i * step. Of a series written twice in the block the last counts. */
void store_load(struct store *s, const struct sequence *seqs, size_t n, int64_t step_ms);
struct queryable *store_queryable(struct store *s);
/* NULL: no series has any. */
struct start_times *store_start_times(struct store *s);

/* Adds to seqs the custom-bucket histograms that the classic ones among them stand for (load_with_nhcb). */
bool add_nhcb(struct sequence **seqs, size_t *n, struct arena *a);

/* --- script.c ----------------------------------------------------------------------------------------------------------------------- */

enum expectation { EXPECT_FAIL, EXPECT_WARN, EXPECT_INFO, EXPECT_NO_WARN, EXPECT_NO_INFO, EXPECTATIONS };

struct check {
    bool given;
    struct slice msgs[8];
    bool is_regex[8];
    size_t n_msgs;
};

struct eval {
    bool range;
    int64_t start_ms, end_ms, step_ms;
    struct slice expr;
    struct check checks[EXPECTATIONS];
    bool ordered;
    bool has_string, has_scalar, range_vector;
    struct slice string;
    double scalar;
    int64_t vec_start_ms, vec_end_ms, vec_step_ms;
    struct sequence *expected;
    size_t n_expected;
};

struct script {
    struct slice rest;
    int line; /* of the line last taken */
};

struct runner {
    struct store *store;
    struct arena arena; /* of one eval */
    const char *file;
    int line;
    bool verbose, names_early, mimir_errors;
    struct engine_crew *crew;
    int passed, failed;
    struct buf why;
};

/* The next line without blanks around it; comments are blank lines. */
bool next_line(struct script *s, struct slice *ret);
/* Prints file:line: why; returns false. */
bool script_error(const struct runner *r, int line, const char *why);
/* A load block whose first line has been taken; args is what stands after the command. */
bool run_load(struct runner *r, struct script *s, struct slice args, bool nhcb);
/* An eval with its expected lines. word is the command, line the rest of its line. */
bool parse_eval(struct runner *r, struct script *s, struct slice word, struct slice line, struct eval *e);
bool parse_expected(struct runner *r, struct script *s, struct eval *e);
