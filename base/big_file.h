/*
 * Big files on a disk where others sync small ones: the embedded log commits each few milliseconds, and a push waits for that.
 *
 * A sync waits behind what the disk was given before it. 32 MiB that were synced at once held commits of the log up for 14 ms, and a file of 64 MiB that was
 * unlinked for 9 (ext4 mounted with `discard` gives its blocks back with the next commit of the journal), where they take 0.3; in steps it was 0.8 and 1.5 to 3
 * (docs/performance.md). So who writes or removes big files in the background does it through here, and who writes one after the other writes the next over a former.
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
 * What is in the file, open for writing, reads as zeroes from now on; it stays as long and keeps its blocks, so that nothing is read before it is written over, and nothing freed. Where
 * the filesystem cannot do that it stays as it was: to be written over all the same. Returns its length.
 */
uint64_t big_file_blank(int fd);

/*
 * Closes fd, open for writing, of a file whose last name was removed and which nobody reads any more; its blocks are freed step by step, in some 5 ms a MiB but
 * never more than 3 s. A file that has a name yet is only closed.
 */
void big_file_free(int fd);
/* The same by a thread that ends with it, for who must not wait; nobody waits for that thread either. */
void big_file_free_aside(int fd);
