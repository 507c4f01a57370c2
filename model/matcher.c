/*
 * Matchers. RE2 costs a few hundred nanoseconds a value, and most patterns of dashboards do not need it: the regex's
 * facts answer for literal alternatives, ".*" and ".+", and refuse by a literal start, end or middle before the program
 * runs.
 */
#include "model/matcher.h"

#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/assert.h"

/* Up to here a scan that compares lengths first beats hashing. */
#define SET_SCAN_MAX 12

static uint32_t set_slot(struct slice s)
{
    return (uint32_t)XXH3_64bits(s.p, s.n);
}

/* Load is at most a half. */
static bool build_set_table(struct matcher *m, const struct regex_facts *facts)
{
    if (facts->set_n <= SET_SCAN_MAX)
        return true;
    ASSERT(facts->set_n < UINT16_MAX);
    uint32_t size = 32;
    while (size < 2 * facts->set_n)
        size *= 2;
    m->set_table = calloc(size, sizeof(*m->set_table));
    if (!m->set_table)
        return false;
    m->set_mask = size - 1;
    for (size_t i = 0; i < facts->set_n; i++) {
        uint32_t slot = set_slot(facts->set[i]) & m->set_mask;
        while (m->set_table[slot])
            slot = (slot + 1) & m->set_mask;
        m->set_table[slot] = (uint16_t)(i + 1);
    }
    return true;
}

bool matcher_init(struct matcher *m, enum matcher_type type, struct slice name, struct slice value, struct err *err)
{
    *m = (struct matcher){.type = type, .name = name, .value = value};
    if (type == MATCH_EQ || type == MATCH_NEQ)
        return true;
    m->regex = regex_new(value, err);
    if (!m->regex)
        return false;
    if (!build_set_table(m, regex_get_facts(m->regex))) {
        matcher_release(m);
        return err_set(err, ERR_NO_MEMORY, "no memory for a matcher");
    }
    return true;
}

void matcher_release(struct matcher *m)
{
    if (!m)
        return;
    regex_free(m->regex);
    free(m->set_table);
    *m = (struct matcher){.type = m->type};
}

static bool set_has(const struct matcher *m, const struct regex_facts *facts, struct slice value)
{
    if (!m->set_table) {
        for (size_t i = 0; i < facts->set_n; i++) {
            if (slice_eq(facts->set[i], value))
                return true;
        }
        return false;
    }
    for (uint32_t slot = set_slot(value) & m->set_mask; m->set_table[slot]; slot = (slot + 1) & m->set_mask) {
        if (slice_eq(facts->set[m->set_table[slot] - 1], value))
            return true;
    }
    return false;
}

static bool regex_says(const struct matcher *m, struct slice value)
{
    const struct regex_facts *facts = regex_get_facts(m->regex);
    if (facts->set_n)
        return set_has(m, facts, value);
    if (facts->any)
        return true;
    if (facts->any_nonempty)
        return value.n > 0;
    if (!slice_has_prefix(value, facts->prefix) || !slice_has_suffix(value, facts->suffix))
        return false;
    if (facts->contains.n && (value.n == 0 || !memmem(value.p, value.n, facts->contains.p, facts->contains.n)))
        return false;
    return regex_match(m->regex, value);
}

bool matcher_matches(const struct matcher *m, struct slice value)
{
    bool positive = m->type == MATCH_EQ || m->type == MATCH_RE;
    bool same = m->regex ? regex_says(m, value) : slice_eq(value, m->value);
    return same == positive;
}

bool matcher_matches_empty(const struct matcher *m)
{
    return matcher_matches(m, slice_make(NULL, 0));
}

bool matchers_match(const struct matcher *ms, size_t n, struct labels l)
{
    for (size_t i = 0; i < n; i++) {
        if (!matcher_matches(&ms[i], labels_get(l, ms[i].name)))
            return false;
    }
    return true;
}

void matcher_print(const struct matcher *m, struct buf *out)
{
    static const char *const ops[] = {[MATCH_EQ] = "=", [MATCH_NEQ] = "!=", [MATCH_RE] = "=~", [MATCH_NRE] = "!~"};
    if (label_name_is_legacy(m->name))
        buf_put_slice(out, m->name);
    else
        labels_put_quoted(m->name, out);
    buf_puts(out, ops[m->type]);
    labels_put_quoted(m->value, out);
}
