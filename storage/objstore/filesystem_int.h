/* Private to the store in a folder: filesystem.c, filesystem_put.c, filesystem_list.c. */
#pragma once

#include <dirent.h>
#include <sys/stat.h>

#include "storage/objstore/objstore_int.h"

#define FILESYSTEM_TMP ".brunn-tmp"
#define FILESYSTEM_NAME_CAP 1025
#define FILESYSTEM_STEP_BYTES ((size_t)1 << 20) /* between looks at ctx */

struct filesystem {
    struct objstore objstore;
    int dir;
};

struct filesystem *filesystem_of(struct objstore *s);

/* The class of errno where a name, not the disk, may be what is wrong. */
bool filesystem_fail(struct err *err, int errnum, const char *what);
/* As a path below the folder. */
bool filesystem_path(struct slice name, char ret[FILESYSTEM_NAME_CAP], struct err *err);
struct objstore_attributes filesystem_attributes_of(const struct stat *st);
/* The folder `name` of `at`, to be read; NULL with *ret_ok when it is gone. */
DIR *filesystem_open_folder(int at, const char *name, bool *ret_ok, struct err *err);
/* The next entry but . and .. ; NULL at the end, with errno 0. */
const struct dirent *filesystem_next_entry(DIR *d);

bool filesystem_put(struct objstore *s, const struct ctx *ctx, struct slice name, struct slice bytes, struct err *err);
bool filesystem_put_file(struct objstore *s, const struct ctx *ctx, struct slice name, const char *file, struct err *err);
bool filesystem_remove(struct objstore *s, const struct ctx *ctx, struct slice name, struct err *err);
bool filesystem_list(struct objstore *s, const struct ctx *ctx, struct slice prefix, bool delimited, objstore_list_fn *fn, void *arg, struct err *err);
