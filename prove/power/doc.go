// Package power is a file system whose power can be cut.
//
// A Disk lives in memory and keeps apart what a program sees and what a power
// cut would leave. Mount shows it to unmodified programs through FUSE; Cut ends
// it between two operations; Survivor is the disk that is there when the power
// is back.
//
// # What is durable
//
// The page cache, as a program must expect it:
//
//   - A write makes nothing durable. It changes blocks of 4 KiB, and each block
//     reaches the disk by itself, in any order, or not at all. A block that was
//     written several times since the last sync may be there as any of its
//     last versions. On a disk with sectors of 512 bytes, which a cut may be of,
//     each of its sectors may.
//   - fsync and fdatasync of a file make its content and size durable, and not
//     its name. A write through a descriptor with O_SYNC or O_DSYNC is a write
//     and a sync. syncfs and sync make nothing durable: FUSE is not told.
//   - fsync of a directory makes durable what was created, renamed and removed in
//     it. Without it, each change survives by itself, but not without every
//     earlier change of the same names. A rename survives as a whole, and one
//     from a directory to another is durable at once.
//   - Truncating and preallocating change the size, which is synced like content.
//     A file that grew may have any size in between, in whole blocks, and zeroes
//     where a block before its end was lost, as on a file system that allocates late.
//
// This is what POSIX promises and no more. A journaling file system does some
// of it by itself, and a program that counts on it may lose here what it would
// keep there: on a disk of the kind Journaling every sync makes all names durable,
// and a cut keeps the changes of names up to some moment.
//
// A disk that lies acknowledges syncs and makes nothing durable. It shows that
// the cuts would find a program that does not sync at all.
package power
