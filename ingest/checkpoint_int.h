/*
 * Checkpoints: a head on disk, one file a tenant, and the manifest that says up to which offset all of them hold.
 *
 * <dir>/manifest, 48 bytes, little endian as everything here:
 *     0   8   magic "BRNMANIF"
 *     8   u32 version 1         12  i32 partition
 *     16  i64 offset            last one applied to every head
 *     24  u64 check of the hash seed (its XXH3-64)
 *     32  u64 0                 40  u64 XXH3-64 of bytes 0..39
 *
 * <dir>/tenants/<tenant>/head.ckpt: sections, one after another, each starting at a multiple of 64; then the table of
 * sections (struct ckpt_section), then the footer (struct ckpt_footer) as the last bytes of the file. Sections hold the
 * regions of shard_int.h as they are in memory. Their layout is part of the format: CKPT_LAYOUT changes with every one
 * of the structs. Written to head.ckpt.tmp, synced, and exchanged with the one before, which the next is written over: between the last section and the table there may then be a hole.
 *
 * A file is taken only when magic, version, layout, seed and every checksum are right and every index in it leads to
 * where it should (verify.c). Anything else is ERR_CORRUPT with the file's name.
 */
#pragma once

#include "ingest/head_int.h"

#define CKPT_VERSION 1u

enum ckpt_kind {
    CKPT_HEAD,        /* struct ckpt_head */
    CKPT_SHARD,       /* struct ckpt_shard */
    CKPT_HOT,         /* struct series_hot[] */
    CKPT_COLD,        /* struct series_cold[] */
    CKPT_LABELS,      /* u32[] */
    CKPT_SYMBOLS,     /* struct symbol[] */
    CKPT_STRING_RUNS, /* u32[]: lengths in pages of the runs that the string pages were allocated in */
    CKPT_STRINGS,     /* the pages; of the last one only what is used */
    CKPT_SLAB_STATE,  /* struct slabs_state */
    CKPT_SLAB_PAGES,  /* struct slab_page[] */
    CKPT_SLAB_BYTES,
    CKPT_HISTOGRAMS,  /* for each place u32 length, u32 encoding, bytes; length 0 = free */
    CKPT_CHUNK_FILES, /* struct chunk_file_state[] */
    CKPT_EXEMPLARS,   /* exemplars_save */
    CKPT_METADATA,    /* metadata_save */
    CKPT_CUT,         /* struct ckpt_cut, then struct ulid[]; absent in files of earlier versions */
    CKPT_KINDS
};

struct ckpt_head {
    int64_t max_t;
    int64_t min_t;
    int64_t min_valid;
    uint32_t n_shards;
    uint32_t unused;
    uint64_t n_full_chunks;
};

/* What was cut out of the head, and the blocks that have it: once this file is durable they are published, by whoever comes first, we or the next start. */
struct ckpt_cut {
    int64_t until;
    uint64_t n_blocks;
};

struct ckpt_shard {
    uint32_t n_series;
    uint32_t n_symbols;
    uint32_t n_names;
    uint32_t n_hists;
    uint64_t n_full_chunks;
    uint64_t n_ooo_blocks;
    uint64_t strings_used;
    int64_t applied;
};

struct ckpt_section {
    uint32_t kind;
    uint32_t shard; /* 0 for those of the head */
    uint64_t off;
    uint64_t len;
    uint64_t sum; /* XXH3-64 */
};

struct ckpt_footer {
    uint64_t table_off;
    uint64_t table_sum;
    uint32_t n_sections;
    uint32_t version;
    uint64_t layout;
    uint64_t seed_check;
    char magic[8];
};

/* Sizes of what is written as it is: another build whose structs differ does not read it. */
#define CKPT_LAYOUT                                                                                                    \
    ((uint64_t)sizeof(struct series_hot) | (uint64_t)sizeof(struct xor_appender) << 8 |                                \
     (uint64_t)sizeof(struct series_cold) << 16 | (uint64_t)sizeof(struct symbol) << 24 |                              \
     (uint64_t)sizeof(struct slab_page) << 32 | (uint64_t)sizeof(struct chunk_entry) << 40 |                           \
     (uint64_t)SLAB_CLASSES << 48 | (uint64_t)CKPT_VERSION << 56)

uint64_t ckpt_seed_check(uint64_t seed);

/*
 * Writes and renames the tenant's file; every shard's offset is at least `consumed`. *ret_bytes: its size. Full chunks
 * are made durable before. On failure the file before stays.
 */
bool head_checkpoint(struct head *h, int64_t consumed, uint64_t *ret_bytes, struct err *err);
/*
 * The head of a tenant's folder. ERR_NOT_FOUND: it has no checkpoint; ERR_CORRUPT: it has a bad one. floor: the
 * manifest's offset, below which no shard is.
 */
struct head *head_load(struct slice tenant, const char *dir, uint64_t seed, int64_t floor, struct head_totals *totals,
                       struct err *err);

bool manifest_write(const char *dir, int32_t partition, uint64_t seed, int64_t offset, struct err *err);
/* ERR_NOT_FOUND: there is none. ERR_CORRUPT, ERR_CONFIG (another partition or seed). */
bool manifest_read(const char *dir, int32_t partition, uint64_t seed, int64_t *ret_offset, struct err *err);

/* Is every index in the data within its bounds, every block owned once? For data read from disk; the tables are made
 * after it. */
bool shard_data_verify(struct shard_data *d);
/* One checkpoint image, wherever it comes from: for the loader and its fuzz target. Reads n bytes at off. */
struct ckpt_source {
    bool (*read)(void *arg, void *p, size_t n, uint64_t off);
    void *arg;
    uint64_t size;
    bool skip_sums; /* the fuzz target's: any bytes are worth looking at */
};
/* The sections, checked to lie within the image; malloc'ed. */
bool ckpt_read_table(const struct ckpt_source *src, uint64_t seed, struct ckpt_section **ret, uint32_t *ret_n,
                     struct err *err);
/* The data of one shard, verified and indexed. */
struct shard_data *ckpt_read_shard(const struct ckpt_source *src, const struct ckpt_section *sections, uint32_t n,
                                   uint32_t shard, uint64_t seed, int64_t *ret_applied, struct err *err);
