/*
 * Walks an LMDB file before LMDB gets to trust it.
 *
 * LMDB follows the page numbers, offsets and lengths of a file without looking twice: a flipped bit in a tree page, or
 * a file cut short, ends in an abort or a wild read. So a file that another process left is walked once with bounds
 * checks; what passes can be read by LMDB without reading outside the file. The layout is LMDB's data format version 1
 * (unchanged through all of 0.9.x), 64 bits, little-endian:
 *
 *   page    0 u64 page number, 8 u16 pad, 10 u16 flags (1 branch, 2 leaf, 4 overflow, 8 meta), 12 u16 lower, 14 u16
 *           upper; of an overflow run 12 u32 pages. From 16 on: u16 offsets of the nodes, (lower - 16) / 2 of them;
 *           nodes lie in upper .. page size.
 *   node    0 u16 lo, 2 u16 hi, 4 u16 flags, 6 u16 key size, 8 key, data. Branch: child = lo | hi << 16 | flags << 32.
 *           Leaf: data size = lo | hi << 16; flag 1: the data is the u64 page number of an overflow run; flag 2: it is
 *           the tree of a named database.
 *   tree    48 bytes: 0 u32 pad, 4 u16 flags (8 = keys are u64), 6 u16 depth, 8 branch pages, 16 leaf pages, 24
 *           overflow pages, 32 entries, 40 root.
 *   meta    pages 0 and 1, the higher transaction wins. From 16 on: u32 0xBEEFC0DE, u32 1, u64 address, u64 map size,
 *           tree of free pages (pad = page size), main tree, u64 last page, u64 transaction.
 *
 * Checked: both meta pages and that their transactions follow one another; each tree page's own number, flags, node
 * bounds; depth and entry counts of each tree; that children and overflow runs lie inside the file; in trees with u64
 * keys that the keys ascend; free page lists when asked (only a writer reads those). Not checked here: values (each
 * record has a checksum), keys of other trees, that no page is used twice (the walk visits at most as many pages as
 * there are, so it ends). An older meta page chosen because the newer one was damaged looks like an older, whole file.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/assert.h"
#include "log/embedded_int.h"

enum { PAGE_BRANCH = 1, PAGE_LEAF = 2, PAGE_OVERFLOW = 4, PAGE_META = 8, PAGE_HEADER = 16, NODE_HEADER = 8 };
enum { NODE_BIG = 1, NODE_TREE = 2, TREE_U64_KEYS = 8, TREE_BYTES = 48, MAX_DEPTH = 32 };
#define META_MAGIC 0xBEEFC0DEu
#define NO_PAGE UINT64_MAX

struct walk {
    const char *path;
    const char *map;
    size_t map_bytes;
    uint64_t page_size;
    uint64_t n_pages; /* that lie wholly inside the file and below the last page */
    uint64_t n_visited;
    const char *why;
    uint64_t where; /* page */
};

struct tree {
    uint16_t flags;
    uint16_t depth;
    uint64_t entries;
    uint64_t root;
    /* of the walk */
    uint64_t seen;
    uint64_t last_key;
    bool is_main;
    bool is_free_list;
};

static uint16_t u16_at(const char *p)
{
    uint16_t v;
    memcpy(&v, p, sizeof(v));
    return v;
}

static uint32_t u32_at(const char *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof(v));
    return v;
}

static uint64_t u64_at(const char *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof(v));
    return v;
}

static bool fail(struct walk *w, uint64_t page, const char *why)
{
    w->why = why;
    w->where = page;
    return false;
}

static void tree_read(const char *p, struct tree *ret)
{
    *ret = (struct tree){
        .flags = u16_at(p + 4), .depth = u16_at(p + 6), .entries = u64_at(p + 32), .root = u64_at(p + 40)};
}

static bool walk_tree(struct walk *w, struct tree *t);

/* A list of free pages: u64 count, then that many page numbers (and what was reserved beyond). */
static bool check_free_pages(struct walk *w, uint64_t page, const char *data, uint64_t size, uint64_t last_page)
{
    if (size < 8 || size % 8 || u64_at(data) > size / 8 - 1)
        return fail(w, page, "a list of free pages has a wrong length");
    for (uint64_t i = 1; i <= u64_at(data); i++)
        if (u64_at(data + 8 * i) < 2 || u64_at(data + 8 * i) > last_page)
            return fail(w, page, "a free page lies outside the file");
    return true;
}

/* The last page according to the meta page that counts; set by read_metas. */
static uint64_t last_page_of(const struct walk *w)
{
    const char *m0 = w->map + PAGE_HEADER, *m1 = m0 + w->page_size;
    return u64_at((u64_at(m0 + 128) >= u64_at(m1 + 128) ? m0 : m1) + 120);
}

static bool walk_big(struct walk *w, const struct tree *t, uint64_t from, uint64_t first, uint64_t size)
{
    uint64_t n = (PAGE_HEADER + size + w->page_size - 1) / w->page_size;
    if (first < 2 || first >= w->n_pages || n > w->n_pages - first)
        return fail(w, from, "a value lies outside the file");
    const char *p = w->map + first * w->page_size;
    if (u64_at(p) != first || u16_at(p + 10) != PAGE_OVERFLOW || u32_at(p + 12) < n)
        return fail(w, first, "the head of a value is damaged");
    return !t->is_free_list || check_free_pages(w, first, p + PAGE_HEADER, size, last_page_of(w));
}

static bool walk_leaf_node(struct walk *w, struct tree *t, uint64_t page, const char *node, size_t room)
{
    uint32_t size = u16_at(node) | (uint32_t)u16_at(node + 2) << 16;
    uint16_t flags = u16_at(node + 4), key_size = u16_at(node + 6);
    size_t stored = flags & NODE_BIG ? 8 : size;
    if ((size_t)NODE_HEADER + key_size > room || stored > room - NODE_HEADER - key_size)
        return fail(w, page, "a node reaches beyond its page");
    if (flags & ~(NODE_BIG | NODE_TREE))
        return fail(w, page, "a node has unknown flags");
    const char *key = node + NODE_HEADER, *data = key + key_size;
    if (t->flags & TREE_U64_KEYS || t->is_free_list) {
        if (key_size != 8 || (t->seen && u64_at(key) <= t->last_key))
            return fail(w, page, "keys are out of order");
        t->last_key = u64_at(key);
    }
    t->seen++;
    if (flags & NODE_BIG)
        return walk_big(w, t, page, u64_at(data), size);
    if (t->is_free_list)
        return check_free_pages(w, page, data, size, last_page_of(w));
    if (!(flags & NODE_TREE))
        return true;
    if (!t->is_main || size != TREE_BYTES)
        return fail(w, page, "a tree stands where none can be");
    struct tree sub;
    tree_read(data, &sub);
    if (sub.flags != TREE_U64_KEYS)
        return fail(w, page, "a tree has unknown flags");
    return walk_tree(w, &sub);
}

static bool walk_page(struct walk *w, struct tree *t, uint64_t page, unsigned depth)
{
    if (page < 2 || page >= w->n_pages)
        return fail(w, page, "a tree page lies outside the file");
    if (++w->n_visited > w->n_pages)
        return fail(w, page, "the trees are no trees");
    const char *p = w->map + page * w->page_size;
    uint16_t kind = depth == t->depth ? PAGE_LEAF : PAGE_BRANCH;
    if (u64_at(p) != page || u16_at(p + 10) != kind)
        return fail(w, page, "the head of a tree page is damaged");
    uint64_t lower = u16_at(p + 12), upper = u16_at(p + 14);
    if (lower <= PAGE_HEADER || lower % 2 || upper < lower || upper > w->page_size)
        return fail(w, page, "the bounds of a tree page are damaged");
    for (uint64_t slot = PAGE_HEADER; slot < lower; slot += 2) {
        uint64_t at = u16_at(p + slot);
        if (at < upper || at % 2 || at + NODE_HEADER > w->page_size)
            return fail(w, page, "a node lies outside its page");
        const char *node = p + at;
        if (kind == PAGE_LEAF) {
            if (!walk_leaf_node(w, t, page, node, w->page_size - at))
                return false;
            continue;
        }
        if (at + NODE_HEADER + u16_at(node + 6) > w->page_size)
            return fail(w, page, "a node reaches beyond its page");
        if (slot > PAGE_HEADER && t->flags & TREE_U64_KEYS && u16_at(node + 6) != 8)
            return fail(w, page, "a key has a wrong length");
        uint64_t child = u16_at(node) | (uint64_t)u16_at(node + 2) << 16 | (uint64_t)u16_at(node + 4) << 32;
        if (!walk_page(w, t, child, depth + 1))
            return false;
    }
    return true;
}

static bool walk_tree(struct walk *w, struct tree *t)
{
    if (t->root == NO_PAGE)
        return (t->entries == 0 && t->depth == 0) || fail(w, 0, "an empty tree has entries");
    if (t->depth == 0 || t->depth > MAX_DEPTH)
        return fail(w, t->root, "the depth of a tree is damaged");
    if (!walk_page(w, t, t->root, 1))
        return false;
    return t->seen == t->entries || fail(w, t->root, "a tree has lost entries");
}

/* Even transactions are noted in page 0, odd ones in page 1, none is left out. */
static bool follow(uint64_t txn0, uint64_t txn1)
{
    return (txn0 == 0 && txn1 == 0) || (txn0 % 2 == 0 && txn1 % 2 == 1 && (txn0 + 1 == txn1 || txn1 + 1 == txn0));
}

/* Checks both meta pages, sets page size and count; returns the one that counts. */
static const char *read_metas(struct walk *w)
{
    if (w->map_bytes < 2 * 512)
        return fail(w, 0, "the file is too short"), NULL;
    const char *best = NULL;
    w->page_size = u32_at(w->map + PAGE_HEADER + 24);
    if (w->page_size < 512 || w->page_size > 65536 || (w->page_size & (w->page_size - 1)) ||
        w->map_bytes < 2 * w->page_size)
        return fail(w, 0, "the page size is damaged, or the file is too short"), NULL;
    for (uint64_t i = 0; i < 2; i++) {
        const char *p = w->map + i * w->page_size, *m = p + PAGE_HEADER;
        if (u64_at(p) != i || u16_at(p + 10) != PAGE_META || u32_at(m) != META_MAGIC || u32_at(m + 4) != 1 ||
            u32_at(m + 24) != w->page_size)
            return fail(w, i, "a meta page is damaged"), NULL;
        if (!best || u64_at(m + 128) > u64_at(best + 128))
            best = m;
    }
    if (!follow(u64_at(w->map + PAGE_HEADER + 128), u64_at(w->map + w->page_size + PAGE_HEADER + 128)))
        return fail(w, 0, "the transactions of the meta pages do not follow one another"), NULL;
    /*
     * Pages that were given back within their own transaction are never written, so the last page may lie a little
     * beyond the file.
     */
    uint64_t last = u64_at(best + 120), in_file = w->map_bytes / w->page_size;
    if (last < 1 || last > in_file + 1024)
        return fail(w, 0, "the file has been cut short"), NULL;
    w->n_pages = MIN(last + 1, in_file);
    return best;
}

static bool walk_file(struct walk *w, bool check_free_list)
{
    const char *meta = read_metas(w);
    if (!meta)
        return false;
    struct tree t;
    tree_read(meta + 24 + TREE_BYTES, &t);
    t.is_main = true;
    if (t.flags != 0)
        return fail(w, 0, "the main tree has unknown flags");
    if (!walk_tree(w, &t))
        return false;
    if (!check_free_list)
        return true;
    tree_read(meta + 24, &t);
    t.is_free_list = true;
    return walk_tree(w, &t);
}

bool embedded_check_file(const char *path, bool check_free_list, struct err *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_errno(err, ERR_IO, errno, "opening %s", path);
    struct stat st;
    if (fstat(fd, &st) != 0) {
        int e = errno;
        close(fd);
        return err_errno(err, ERR_IO, e, "looking at %s", path);
    }
    struct walk w = {.path = path, .map_bytes = (size_t)st.st_size};
    void *map = w.map_bytes ? mmap(NULL, w.map_bytes, PROT_READ, MAP_SHARED, fd, 0) : NULL;
    int map_errno = errno;
    close(fd);
    if (map == MAP_FAILED)
        return err_errno(err, ERR_IO, map_errno, "mapping %s", path);
    w.map = map;
    bool ok = walk_file(&w, check_free_list);
    if (map)
        munmap(map, w.map_bytes);
    if (ok)
        return true;
    return err_set(err, ERR_CORRUPT, "%s is damaged: %s (page %" PRIu64 ")", path, w.why, w.where);
}
