/* Files of full chunks that nobody refers to any more. What they are else, head_test.c and checkpoint_test.c have. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/assert.h"
#include "ingest/chunk_store_int.h"
#include "ingest/files_int.h"

#define N_CHUNKS 64
#define CHUNK_BYTES 50000u /* some 3 MiB in all: more than is freed in one step */

struct rig {
    char dir[64], path[80]; /* path: of the first file */
    struct chunk_store *cs;
    struct chunk_entry chunks[N_CHUNKS];
    char bytes[CHUNK_BYTES];
};

/* A file more, which no series refers to, and which the next checkpoint does not name. */
static void fill_and_leave_out(struct rig *r)
{
    struct err err = ERR_NONE;
    struct chunk_file_state *files;
    struct chunk_files_used used;
    size_t n;
    for (int i = 0; i < N_CHUNKS; i++) {
        memset(r->bytes, i, sizeof(r->bytes));
        r->chunks[i] = chunk_store_append(r->cs, CHUNK_XOR, 0, 1, slice_make(r->bytes, sizeof(r->bytes)), i, i);
    }
    cr_assert(chunk_store_flush(r->cs, true, &err), "%s", err.text);
    chunk_files_used_init(&used, r->cs);
    cr_assert_eq(chunk_store_drop(r->cs, &used, chunk_store_mark(r->cs)), 1);
    chunk_files_used_release(&used);
    cr_assert(chunk_store_sync(r->cs, &files, &n, &err) && n == 0, "%s", err.text);
    free(files);
}

static struct rig *rig_new(void)
{
    struct rig *r = calloc(1, sizeof(*r));
    struct err err = ERR_NONE;
    strcpy(r->dir, "/tmp/chunk-store-XXXXXX");
    cr_assert(mkdtemp(r->dir));
    snprintf(r->path, sizeof(r->path), "%s/000001", r->dir);
    r->cs = chunk_store_new(r->dir, &err);
    cr_assert(r->cs, "%s", err.text);
    fill_and_leave_out(r);
    return r;
}

static void expect_chunks(struct rig *r, struct chunk_pins *pins)
{
    struct slice got;
    for (int i = 0; i < N_CHUNKS; i++) {
        memset(r->bytes, i, sizeof(r->bytes));
        cr_expect_eq(chunk_pins_read(pins, &r->chunks[i], &got), CHUNK_READ_OK);
        cr_expect(slice_eq(got, slice_make(r->bytes, sizeof(r->bytes))));
    }
}

static bool is_there(const struct rig *r, const char *name)
{
    char path[128];
    snprintf(path, sizeof(path), "%s/%s", r->dir, name);
    return access(path, F_OK) == 0;
}

static void rig_free(struct rig *r)
{
    struct err err;
    chunk_store_free(r->cs);
    cr_expect(dir_remove(r->dir, &err));
    free(r);
}

Test(chunk_store, a_file_that_a_reader_has_pinned_loses_its_name_and_nothing_else)
{
    struct rig *r = rig_new();
    struct chunk_pins pins;
    chunk_pins_init(&pins, r->cs);
    chunk_store_unlink_dead(r->cs);
    cr_expect(!is_there(r, "000001") && !is_there(r, "spare-0"));
    expect_chunks(r, &pins);
    chunk_pins_release(&pins);
    rig_free(r);
}

Test(chunk_store, a_file_that_nobody_has_pinned_becomes_the_next_one)
{
    struct rig *r = rig_new();
    struct chunk_pins pins;
    struct stat old, new;
    char next[80];
    cr_assert(stat(r->path, &old) == 0);
    chunk_store_unlink_dead(r->cs);
    cr_expect(!is_there(r, "000001") && is_there(r, "spare-0"));
    cr_expect_eq(chunk_store_disk_bytes(r->cs), 0);
    fill_and_leave_out(r);
    chunk_pins_init(&pins, r->cs);
    snprintf(next, sizeof(next), "%s/000002", r->dir);
    cr_expect(stat(next, &new) == 0 && new.st_ino == old.st_ino && !is_there(r, "spare-0"));
    expect_chunks(r, &pins);
    chunk_pins_release(&pins);
    rig_free(r);
}

Test(chunk_store, a_start_removes_spares)
{
    struct rig *r = rig_new();
    struct err err = ERR_NONE;
    chunk_store_unlink_dead(r->cs);
    chunk_store_free(r->cs);
    r->cs = chunk_store_new(r->dir, &err);
    cr_assert(r->cs, "%s", err.text);
    cr_expect(!is_there(r, "spare-0"));
    fill_and_leave_out(r);
    rig_free(r);
}
