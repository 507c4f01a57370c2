/* What the sources of a chunk store (chunk_store_int.h) share: its files and its tail. */
#pragma once

#include "ingest/chunk_store_int.h"

static const char chunk_file_magic[12] = "BRUNNCHUNKS";

/* A part of the tail: bytes of one file from file_off on. A chunk never straddles two. */
struct chunk_tail_block {
    struct chunk_tail_block *next;
    struct chunk_file *file;
    uint32_t file_off;
    uint32_t used;    /* writer: appender under lock */
    uint32_t flushed; /* writer: flusher under lock */
    uint32_t cap;
    char data[];
};

/* Where the file is. */
void chunk_file_path(const struct chunk_store *cs, uint32_t number, char *out, size_t cap);
/* True: nobody has it any more. */
bool chunk_file_unref(struct chunk_file *f);
/* The newest of the list, not on disk yet. */
struct chunk_file *chunk_file_add(struct chunk_store *cs, uint32_t number);
/* Opens and maps what a checkpoint names, cut to its length, as the newest of the list. */
bool chunk_file_open(struct chunk_store *cs, const struct chunk_file_state *st, struct err *err);
/* Makes the file, out of a spare where there is one, and maps it. The caller holds io. */
bool chunk_file_make(struct chunk_store *cs, struct chunk_file *f, struct err *err);
/* Removes what the checkpoint does not name: chunks that the replay will make again, and spares. */
bool chunk_files_remove_others(const char *dir, const struct chunk_file_state *files, size_t n, struct err *err);
