/* UTF-8 as Go sees it: overlong forms, surrogates and values past U+10FFFF are invalid. Pure functions. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/slice.h"

bool utf8_valid(struct slice s);
/* Decodes one rune; an invalid byte gives U+FFFD and size 1, as Go does. s must not be empty. */
uint32_t utf8_decode(struct slice s, size_t *ret_size);
size_t utf8_encode(uint32_t rune, char out[4]);
/* Number of runes as Go's utf8.RuneCount. */
size_t utf8_count(struct slice s);
/* The longest prefix of at most n bytes that does not end inside a rune. */
struct slice utf8_cut(struct slice s, size_t n);
