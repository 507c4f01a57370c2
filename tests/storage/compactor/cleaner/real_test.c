/* A bucket that a real Mimir's compactor left behind, taken over; its index and marks are understood and its blocks removed as it would have. */
#include "cleaner_rig.h"

#define MARKED_S ((int64_t)1795237506) /* within seconds of all marks */

static struct clean_rig c;

static void setup(void)
{
    c = (struct clean_rig){0};
    rig_real(&c.bucket);
    clean_start(&c);
}

static void teardown(void)
{
    clean_free(&c);
}

TestSuite(cleaner_real, .init = setup, .fini = teardown);

/* The same blocks with the same facts; uploaded_at is the time of the copy's files where they are read anew. */
static void expect_same(const struct bucket_index *a, const struct bucket_index *b)
{
    cr_assert_eq(a->n_blocks, b->n_blocks);
    cr_assert_eq(a->n_deletions, b->n_deletions);
    for (size_t i = 0; i < a->n_blocks; i++) {
        const struct index_block *x = &a->blocks[i], *y = NULL;
        for (size_t k = 0; k < b->n_blocks && !y; k++)
            if (strcmp(x->id.text, b->blocks[k].id.text) == 0)
                y = &b->blocks[k];
        cr_assert(y, "%s", x->id.text);
        cr_expect(x->min_t == y->min_t && x->max_t == y->max_t && x->level == y->level && x->out_of_order == y->out_of_order);
        cr_expect(slice_eq(x->shard, y->shard) && slice_eq(x->source, y->source) && x->segments_num == y->segments_num && x->n_labels == y->n_labels);
    }
    for (size_t i = 0; i < a->n_deletions; i++) {
        const struct index_deletion *d = bucket_index_deletion(b, &a->deletions[i].block);
        cr_assert(d);
        cr_expect_eq(d->time_s, a->deletions[i].time_s);
    }
}

Test(cleaner_real, its_index_is_taken_over_and_made_anew_alike)
{
    static const char *const tenants[] = {"tenant-a", "tenant-b"};
    struct bucket_index theirs[2], ours;
    clean_at(&c, (MARKED_S + 600) * 1000);
    for (size_t i = 0; i < 2; i++)
        cr_assert(index_now(&c, tenants[i], &theirs[i]));
    clean_round(&c);
    for (size_t i = 0; i < 2; i++) {
        cr_assert(index_now(&c, tenants[i], &ours));
        cr_expect_eq(ours.updated_at_s, MARKED_S + 600);
        expect_same(&theirs[i], &ours);
    }
    shell("rm %s/tenant-a/bucket-index.json.gz && rm -r %s/tenant-b/markers && echo x >%s/tenant-b/bucket-index.json.gz", c.bucket.bucket, c.bucket.bucket,
          c.bucket.bucket);
    clean_round(&c);
    for (size_t i = 0; i < 2; i++) {
        cr_assert(index_now(&c, tenants[i], &ours));
        expect_same(&theirs[i], &ours);
    }
}

Test(cleaner_real, its_marked_blocks_go_twelve_hours_later_and_nothing_else)
{
    struct bucket_index theirs, ours;
    cr_assert(index_now(&c, "tenant-a", &theirs));
    clean_at(&c, (MARKED_S + 11 * 3600) * 1000);
    clean_round(&c);
    cr_assert(index_now(&c, "tenant-a", &ours));
    cr_expect_eq(ours.n_blocks, theirs.n_blocks);
    clean_at(&c, (MARKED_S + 12 * 3600 + 60) * 1000);
    clean_round(&c);
    cr_assert(index_now(&c, "tenant-a", &ours));
    cr_expect_eq(ours.n_blocks, theirs.n_blocks - theirs.n_deletions);
    cr_expect_eq(ours.n_deletions, 0);
    for (size_t i = 0; i < theirs.n_blocks; i++) {
        const struct index_block *b = &theirs.blocks[i];
        bool marked = bucket_index_deletion(&theirs, &b->id) != NULL;
        cr_expect_neq(exists("%s/tenant-a/%s", c.bucket.bucket, b->id.text), marked);
    }
    cr_expect_not(exists("%s/tenant-a/markers", c.bucket.bucket));
}

Test(cleaner_real, its_deleted_tenant_is_brought_to_its_end)
{
    struct tenant_mark m;
    cr_assert(bucket_read_tenant_mark(c.bucket.store, &no_hurry, SL("tenant-gone"), &m, NULL));
    cr_expect_gt(m.finished_time_s, 0);
    clean_at(&c, (m.finished_time_s + 6 * 3600 - 1) * 1000);
    clean_round(&c);
    cr_expect(exists("%s/tenant-gone", c.bucket.bucket));
    clean_at(&c, (m.finished_time_s + 6 * 3600) * 1000);
    clean_round(&c);
    cr_expect_not(exists("%s/tenant-gone", c.bucket.bucket));
}
