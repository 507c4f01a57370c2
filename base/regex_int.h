/* What regex.c and regex_facts.c share. */
#pragma once

#include "base/arena.h"
#include "base/regex.h"

/* How a pattern can be decided without running it. */
enum regex_shape {
    REGEX_SHAPE_OTHER,    /* run it (after the facts have let the text pass) */
    REGEX_SHAPE_SET,      /* facts.set, sorted */
    REGEX_SHAPE_AFFIXES,  /* prefix.*suffix: both present and not overlapping */
    REGEX_SHAPE_CONTAINS, /* .*contains.* */
    REGEX_SHAPE_NONEMPTY, /* .+ */
};

/*
 * Fills in facts (zeroed by the caller) for a pattern that compiles. Strings come from the arena. On doubt, and when the arena is full, it claims
 * less.
 */
enum regex_shape regex_find_facts(struct slice pattern, struct arena *arena, struct regex_facts *ret);
