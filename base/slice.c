#include "base/slice.h"

#include <stdlib.h>

#include "base/assert.h"

char *slice_strdup(struct slice s)
{
    char *copy = malloc(s.n + 1);
    ASSERT(copy);
    if (s.n)
        memcpy(copy, s.p, s.n);
    copy[s.n] = 0;
    return copy;
}
