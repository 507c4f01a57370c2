/* Private to base/: the flag set and how its files share it. */
#pragma once

#include "base/arena.h"
#include "base/flags.h"

/* One registered flag: the row, the value it fills, and where the value came from. */
struct flag {
    const struct flag_def *def;
    void *field;
    enum { FLAG_FROM_DEFAULT, FLAG_FROM_YAML, FLAG_FROM_COMMAND_LINE } source;
};

struct flag_room {
    const char *name;
    size_t first; /* index into flags */
    size_t n;
};

#define FLAG_MAX_ROOMS 64
#define FLAG_MAX_FLAGS 2048

struct flag_set {
    struct arena arena; /* every parsed string and list */
    struct flag_room rooms[FLAG_MAX_ROOMS];
    size_t n_rooms;
    struct flag flags[FLAG_MAX_FLAGS];
    size_t n_flags;
};

struct flag *flag_set_find_flag(struct flag_set *fs, struct slice name);
struct flag *flag_set_find_yaml(struct flag_set *fs, struct slice path);
/* Is path the path of a block ("limits" when there is "limits.x")? */
bool flag_set_is_block(const struct flag_set *fs, struct slice path);
void flag_list_parse(struct slice text, struct flag_list *ret, struct flag_set *owner);
/* Parses a configuration file's bytes into the set: flags_yaml.c. */
bool flag_set_parse_yaml(struct flag_set *fs, const char *file, struct slice text, struct err *err);
/* ${VAR} and ${VAR:default} replaced by the environment's values; $${...} is not special. */
void flags_expand_env(struct slice text, struct buf *out);
