/* Folders made, made durable, removed. Any thread. */
#pragma once

#include "base/err.h"

bool folder_make(const char *path, struct err *err); /* with its parents */
bool folder_sync(const char *path, struct err *err);
bool folder_remove(const char *path, struct err *err); /* with all in it; one that is not there is fine */
