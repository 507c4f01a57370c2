/*
 * Big files on a disk where others sync small ones: the embedded log commits each few milliseconds, and a push waits for that.
 *
 * A sync waits behind what the disk was given before it. 32 MiB that are synced at once, and the blocks of 64 MiB that are freed at once (they are discarded with the next
 * commit of the filesystem's journal), held commits of the log up for 14 and 9 ms where they take 0.3; in steps it was 0.8 and 1.5 (ext4 on an NVMe disk, medians
 * of the longest one). So who writes or removes big files in the background does it through here.
 *
 * Any thread; calls wait for the disk.
 */
#pragma once

#include <stdint.h>

/*
 * The bytes [*behind, written) of the file, which are in the page cache, go to the disk in steps of 256 KiB, of which at most two are under way; what is less than a
 * step stays for the next call. *behind, 0 for a new file, moves on. Nothing is durable by this: an fsync that follows has little left to do. Errors are left
 * for it as well.
 */
void big_file_write_behind(int fd, uint64_t written, uint64_t *behind);

/*
 * Closes fd, open for writing, of a file whose last name was removed and which nobody reads any more; its blocks are freed step by step, in some 5 ms a MiB but
 * never more than 3 s. A file that has a name yet is only closed.
 */
void big_file_free(int fd);
