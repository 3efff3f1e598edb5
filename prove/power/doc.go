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
//     last versions.
//   - fsync and fdatasync of a file make its content and size durable, and not
//     its name.
//   - fsync of a directory makes durable what was created, renamed and removed in
//     it. Without it, each change survives by itself, but not without every
//     earlier change of the same names. A rename survives as a whole, and one
//     from a directory to another is durable at once.
//   - Truncating and preallocating change the size, which is synced like content.
//
// This is what POSIX promises and no more. A journaling file system does some
// of it by itself (ext4 makes a new file's name durable with its content), and
// a program that counts on it may lose here what it would keep there.
//
// A disk that lies acknowledges syncs and makes nothing durable. It shows that
// the cuts would find a program that does not sync at all.
package power
