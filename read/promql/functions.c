/* The table of functions (functions.def) and its index: binary search, as the table is sorted by name. */
#include "read/promql/ast.h"

#include "base/assert.h"

#define SCALAR VALUE_SCALAR
#define VECTOR VALUE_VECTOR
#define MATRIX VALUE_MATRIX
#define STRING VALUE_STRING

static const struct promql_function functions[] = {
#define PROMQL_FUNCTION(id_, name_, n_args_, variadic_, returns_, experimental_, ...)                                                  \
    {.name = name_,                                                                                                                    \
     .id = PROMQL_FN_##id_,                                                                                                            \
     .args = {__VA_ARGS__},                                                                                                            \
     .n_args = n_args_,                                                                                                                \
     .variadic = variadic_,                                                                                                            \
     .returns = returns_,                                                                                                              \
     .experimental = experimental_},
#include "read/promql/functions.def"
#undef PROMQL_FUNCTION
};

const struct promql_function *promql_function_find(struct slice name)
{
    size_t lo = 0;
    size_t hi = ARRAY_LEN(functions);
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        int c = slice_cmp(slice_of(functions[mid].name), name);
        if (c == 0)
            return &functions[mid];
        if (c < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return NULL;
}
