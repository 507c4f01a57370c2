/* Private to app/tools/. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/err.h"
#include "base/flags.h"
#include "model/histogram.h"
#include "storage/block/meta.h"
#include "storage/bucket/bucket.h"
#include "storage/objstore/objstore.h"

#define TOOL_OK 0
#define TOOL_FAILED 1
#define TOOL_USAGE 2

/* --- the command line (args.c) ------------------------------------------------------------------------------------------------ */

struct tool_config_file {
    const char *path;
    bool expand_env;
};

/* Flags of one tool and the words beside them. */
struct tool_args {
    struct flag_set *flags;
    struct tool_config_file file;
    struct objstore_config common_bucket;
    char **words; /* owned array */
    int n_words;
};
void tool_args_init(struct tool_args *a);
void tool_args_release(struct tool_args *a);
/* After the tables were added. False: it was told, with what there is. */
bool tool_args_parse(struct tool_args *a, int argc, char **argv, const char *usage);
/* Tells an error; TOOL_FAILED. */
int tool_fail(const struct err *err);

/* The bucket's flags, -blocks-storage.* and -common.storage.*, and the server's -config.file, added to the set. */
void tool_bucket_flags(struct tool_args *a, struct objstore_config *cfg);
/* The bucket that they name; a folder must be there already. NULL: err. */
struct objstore *tool_bucket_open(const struct objstore_config *cfg, struct err *err);

/* --- what is printed (print.c) ------------------------------------------------------------------------------------------------ */

void print_blocks_head(void);
void print_block(const struct block_meta *m, uint64_t bytes);
/* Prometheus's text of a histogram: {count:2, sum:1, (0.5,1]:2}. */
void put_histogram_text(const struct histogram *h, struct buf *out);
/* "2026-11-21T05:05:48Z", milliseconds only where there are any; in an array of the caller's. */
#define TIME_TEXT_MAX 48
const char *time_text(int64_t ms, char ret[static TIME_TEXT_MAX]);

/* A bar on stderr, when that is a terminal; else nothing. Drawn five times a second at most. */
struct progress {
    const char *label; /* NULL: there is none */
    uint64_t total;    /* 0: not known */
    uint64_t done;
    int64_t begun_ms, drawn_ms;
    bool drawn;
};
void progress_begin(struct progress *p, const char *label, uint64_t total);
void progress_add(struct progress *p, uint64_t n);
void progress_end(struct progress *p); /* clears the line */

/* --- folders of blocks (folders.c) ---------------------------------------------------------------------------------------------- */

/* fn for each block of the words: a word is a block, or a folder of blocks, which come by name. False: err, or fn said so. */
typedef bool block_folder_fn(const char *dir, void *arg, struct err *err);
bool each_block_folder(char **words, int n_words, block_folder_fn *fn, void *arg, struct err *err);
/* meta.json of a block's folder, and the bytes of its files. */
bool read_block_folder(const char *dir, struct arena *arena, struct block_meta *ret, uint64_t *ret_bytes, struct err *err);
void remove_folder(const char *dir); /* with all in it; what cannot be removed is told */

/* --- tools that are files of their own --------------------------------------------------------------------------------------------- */

int block_dump(int argc, char **argv);
int block_cat_index(int argc, char **argv);
int bucket_verify(int argc, char **argv);
