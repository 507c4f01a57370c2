/* Faults and ends of the process at every operation; and readers that follow the index while all of that happens. */
#include "cleaner_rig.h"

static struct clean_rig c;

static void setup(void)
{
    clean_new(&c);
}

static void teardown(void)
{
    clean_free(&c);
}

TestSuite(cleaner_crash, .init = setup, .fini = teardown, .timeout = 240);

/* Something of everything a round does, 13 hours later. */
static void build_bucket(void)
{
    c.limit_values.compactor_blocks_retention_period = 1000 * HOUR_MS;
    clean_at(&c, START_MS - 2000 * HOUR_MS);
    put_block(&c, "a", 1);
    clean_at(&c, START_MS);
    put_block(&c, "a", 2);
    put_block(&c, "a", 3);
    put_files(&c, "a", 4);
    mark_block(&c, "a", 4);
    mark_block(&c, "a", 3);
    put_block(&c, "gone", 1);
    put_block(&c, "gone", 2);
    struct tenant_mark m = {.deletion_time_s = START_MS / 1000};
    cr_assert(bucket_write_tenant_mark(c.bucket.store, &no_hurry, SL("gone"), &m, NULL));
    put_block(&c, "b", 1);
    mark_block(&c, "b", 1);
    put_at(&c, "b/debug/metas/x.json", "{}");
}

/* All names in the bucket, sorted, without the indexes. */
static char *names_now(void)
{
    char command[256];
    size_t n = 0, cap = 65536;
    char *text = calloc(1, cap);
    snprintf(command, sizeof(command), "cd %s && find . -type f ! -name bucket-index.json.gz ! -path './.brunn*' | sort", c.bucket.bucket);
    FILE *f = popen(command, "r");
    cr_assert(f);
    n = fread(text, 1, cap - 1, f);
    cr_assert_eq(pclose(f), 0);
    text[n] = 0;
    return text;
}

/* What healthy rounds make of it, to the end. */
static void finish_rounds(void)
{
    for (int i = 0; i < 4; i++) {
        clean_at(&c, c.now_ms + 13 * HOUR_MS);
        clean_round(&c);
    }
}

static char *expected_end(void)
{
    build_bucket();
    clean_round(&c);
    finish_rounds();
    return names_now();
}

/* A copy of the bucket as it was, so that the next try begins alike. */
static void save(void)
{
    shell("cp -a %s %s/saved", c.bucket.bucket, c.bucket.dir);
}

static void restore(void)
{
    shell("rm -rf %s && cp -a %s/saved %s", c.bucket.bucket, c.bucket.dir, c.bucket.bucket);
}

static void begin_again(void)
{
    struct clean_rig *p = &c;
    clean_free(p);
    clean_new(p);
    build_bucket();
}

/* What the filesystem store holds open is the folder itself: after restore it is another. */
static void reopen(void)
{
    struct objstore_config cfg;
    struct flag_set *flags = flag_set_new();
    struct err err = ERR_NONE;
    flag_set_add(flags, "Blocks", rig_flags, ARRAY_LEN(rig_flags), &cfg);
    objstore_free(c.bucket.store);
    c.bucket.store = objstore_open(&cfg, "blocks-storage.", c.bucket.bucket, &err);
    cr_assert(c.bucket.store, "%s", err.text);
    c.bucket.faulty.store = c.bucket.store;
    flag_set_free(flags);
}

/* Blocks that the published index has and that are not marked in it for the delay. */
static void check_reader(const struct bucket_index *index, int64_t now_ms, const char *tenant, const char *when)
{
    for (size_t i = 0; i < index->n_blocks; i++) {
        const struct index_deletion *d = bucket_index_deletion(index, &index->blocks[i].id);
        if (d && now_ms - d->time_s * 1000 >= c.cfg.deletion_delay)
            continue;
        static const char *const files[] = {"meta.json", "index", "chunks/000001"};
        for (size_t k = 0; k < ARRAY_LEN(files); k++)
            cr_assert(exists("%s/%s/%s/%s", c.bucket.bucket, tenant, index->blocks[i].id.text, files[k]), "%s: %s of block %s is missing", when, files[k],
                      index->blocks[i].id.text);
    }
}

static void check_readers(int64_t now_ms, const char *when)
{
    struct bucket_index index;
    if (index_now(&c, "a", &index))
        check_reader(&index, now_ms, "a", when);
    if (index_now(&c, "b", &index))
        check_reader(&index, now_ms, "b", when);
}

Test(cleaner_crash, a_fault_at_any_operation_costs_a_round)
{
    char *want = expected_end(), when[64];
    begin_again();
    clean_round(&c);
    save();
    int n_faults = 0;
    for (int at = 0;; at++) {
        struct err err = ERR_NONE;
        clean_at(&c, START_MS + 13 * HOUR_MS);
        restore();
        reopen();
        c.bucket.faulty.left = at;
        bool good = cleaner_run(c.cleaner, &no_hurry, &err);
        bool tripped = c.bucket.faulty.left == 0;
        c.bucket.faulty.left = -1;
        snprintf(when, sizeof(when), "fault at %d", at);
        check_readers(c.now_ms, when);
        finish_rounds();
        char *got = names_now();
        cr_assert_str_eq(got, want, "%s", when);
        free(got);
        n_faults += !good;
        if (!tripped)
            break;
    }
    cr_expect_gt(n_faults, 10);
    free(want);
}

/* In a process of its own. Returns true when it came to its end. */
static bool run_and_crash(int at)
{
    fflush(NULL);
    pid_t child = fork();
    cr_assert_geq(child, 0);
    if (child == 0) {
        struct crashing crashing = {.objstore = {&crash_ops}, .store = c.bucket.store, .left = at};
        struct cleaner_parts parts = clean_parts(&c, &crashing.objstore);
        struct cleaner *cleaner = cleaner_new(&parts);
        bool good = cleaner_run(cleaner, &no_hurry, NULL);
        _exit(good ? 0 : 1);
    }
    int status;
    cr_assert_eq(waitpid(child, &status, 0), child);
    cr_assert(WIFEXITED(status) && (WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == 9), "status %x", status);
    return WEXITSTATUS(status) == 0;
}

Test(cleaner_crash, an_end_at_any_operation_leaves_what_the_next_round_goes_on_with)
{
    char *want = expected_end(), when[64];
    begin_again();
    clean_round(&c);
    save();
    bool done = false;
    int n = 0;
    for (int at = 0; !done; at++, n++) {
        clean_at(&c, START_MS + 13 * HOUR_MS);
        restore();
        reopen();
        done = run_and_crash(at);
        snprintf(when, sizeof(when), "end at %d", at);
        check_readers(c.now_ms, when);
        finish_rounds();
        char *got = names_now();
        cr_assert_str_eq(got, want, "%s", when);
        free(got);
    }
    cr_expect_gt(n, 30);
    free(want);
}

/* --- readers ------------------------------------------------------------------------------------------------------------------- */

#define READERS 4
#define MAX_STALE_MS HOUR_MS

/* Holds an index as a querier does, until it is too old. */
struct reader {
    struct bucket_index index;
    bool has;
};

static uint64_t seed;

static unsigned random_below(unsigned n)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (unsigned)(seed >> 33) % n;
}

/* The compactor and the ingesters: blocks come, are merged into others, marked; some uploads stop in the middle and go on much later. */
struct world {
    unsigned n_blocks;
    bool marked[4096], complete[4096];
    unsigned paused[64];
    size_t n_paused;
};

static void act(struct world *w)
{
    unsigned n = w->n_blocks;
    switch (random_below(6)) {
    case 0:
    case 1:
        put_block(&c, "a", n);
        w->complete[w->n_blocks++] = true;
        break;
    case 2: /* two are merged */
        for (unsigned merged = 0, at = random_below(n + 1); at < n && merged < 2; at++) {
            if (!w->complete[at] || w->marked[at])
                continue;
            if (merged++ == 0) {
                put_block(&c, "a", n);
                w->complete[w->n_blocks++] = true;
            }
            mark_block(&c, "a", at);
            w->marked[at] = true;
        }
        break;
    case 3: /* an upload that stops */
        if (w->n_paused < 64) {
            put_files(&c, "a", n);
            w->paused[w->n_paused++] = w->n_blocks++;
        }
        break;
    case 4: /* and goes on, from its beginning */
        if (w->n_paused) {
            unsigned at = random_below((unsigned)w->n_paused), block = w->paused[at];
            put_files(&c, "a", block);
            put_meta(&c, "a", block, c.now_ms, "receive");
            w->complete[block] = true;
            w->paused[at] = w->paused[--w->n_paused];
        }
        break;
    default:
        break;
    }
}

/* What was given to the bucket and never marked by its owner is there. */
static void check_nothing_lost(const struct world *w)
{
    for (unsigned i = 0; i < w->n_blocks; i++)
        if (w->complete[i] && !w->marked[i])
            cr_assert(has_block(&c, "a", i) && has(&c, name_of("a", i, "index")), "block %u is lost", i);
}

static void clean_somehow(void)
{
    switch (random_below(4)) {
    case 0:
        c.bucket.faulty.left = (int)random_below(40);
        (void)cleaner_run(c.cleaner, &no_hurry, NULL);
        c.bucket.faulty.left = -1;
        break;
    case 1:
        (void)run_and_crash((int)random_below(60));
        break;
    case 2: {
        static char hidden[ULID_TEXT_LEN + 1];
        strcpy(hidden, nth_block(random_below(40)).text);
        c.bucket.faulty.hidden = hidden;
        clean_round(&c);
        c.bucket.faulty.hidden = NULL;
        break;
    }
    default:
        clean_round(&c);
    }
}

static void live(uint64_t from)
{
    struct reader readers[READERS] = {0};
    struct world w = {0};
    seed = from;
    for (int step = 0; step < 150; step++) {
        /* Mostly minutes; now and then the cleaner is away for a day. */
        int64_t pause_ms = random_below(25) == 0 ? (int64_t)random_below(40) * HOUR_MS : (int64_t)random_below(40) * MINUTE_MS;
        clean_at(&c, c.now_ms + pause_ms);
        act(&w);
        if (random_below(3) == 0)
            clean_somehow();
        for (size_t i = 0; i < READERS; i++) {
            struct reader *r = &readers[i];
            if (r->has && c.now_ms - r->index.updated_at_s * 1000 <= MAX_STALE_MS)
                check_reader(&r->index, c.now_ms, "a", "a reader");
            if (random_below(4) == 0)
                r->has = index_now(&c, "a", &r->index);
        }
    }
    check_nothing_lost(&w);
    /* A mark that a merge found in place may have been a void one, and gone: the compactor marks what it finds superseded in each of its runs. */
    for (unsigned i = 0; i < w.n_blocks; i++)
        if (w.marked[i] && has_block(&c, "a", i))
            mark_block(&c, "a", i);
    for (int i = 0; i < 4; i++) { /* the end: only what is whole or still being uploaded is left */
        clean_at(&c, c.now_ms + 30 * HOUR_MS);
        clean_round(&c);
    }
    check_nothing_lost(&w);
    for (unsigned i = 0; i < w.n_blocks; i++)
        if (w.marked[i] || !w.complete[i])
            shell("test -z \"$(find %s/a/%s -type f 2>/dev/null)\"", c.bucket.bucket, nth_block(i).text); /* no orphan */
}

Test(cleaner_crash, readers_that_follow_the_index_miss_no_block)
{
    for (uint64_t from = 1; from <= 3; from++) {
        live(from);
        clean_free(&c);
        clean_new(&c);
    }
}
