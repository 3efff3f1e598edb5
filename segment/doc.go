// Package segment keeps an ordered run of checksummed frames on a disk that may
// stop at any instant. Payloads are opaque to it: it does not know what a
// command or a log is.
//
// # The directory of a volume
//
//	LOCK                          flock of the one process that writes
//	VOLUME                        identity: format version, volume ULID, segment size, checksum
//	000000000000002a.wal          a segment, named by its ID
//	0000000000000005.gap          segments from this one on that were released while others
//	                              before them are kept: see Gap
//	spare-01jd....seg             a file written from end to end, waiting for its next life
//	*.tmp                         unfinished work of a run that ended; removed at open
//
// # Life of a segment
//
//	prepare   a background goroutine writes a file of zeroes at a limited rate,
//	          syncs it, names it spare, syncs the directory
//	begin     the new header (ID, fresh salt, cut, snapshot references) is
//	          written over the spare's first block and synced; the file is
//	          renamed to the ID's name; the directory is synced. From here on
//	          the segment exists durably, and its header never changes.
//	fill      frames, one behind the other, on 4 KiB boundaries
//	seal      the successor is begun first; its header already says where this
//	          segment will end, since the seal's bytes are known before they
//	          are written. Then the seal is written and synced.
//	release   whoever allows it has made the command that allows it durable.
//	          If segments before it are kept, a gap that covers it is made durable
//	          first, with the header of the gap's first segment: else it would seem
//	          to be lost. The file is renamed to a spare (or removed), the oldest
//	          first; readers that hold it open delay that for at most
//	          limits.PinLimit, afterwards every frame they read fails its identity:
//	          ErrReleased. A gap that no segment lies before any more is removed
//	          when all in it have lost their names.
//
// A header is never rewritten in place, so one that does not verify is damage,
// never a torn write.
//
// # A frame
//
//	0                 128                                            n * 4096
//	+------------------+---------+---------+----+-----------+---------+
//	| header           | block 0 | block 1 | .. | directory | zeroes  |
//	+------------------+---------+---------+----+-----------+---------+
//
// Blocks come first so that they can be appended to the write buffer while the
// frame is still filling; the directory (block table, then Meta) is known only
// when the frame is sealed, the header only when it is submitted.
//
// The header's checksum covers the volume, the segment's ID and salt, the
// header's offset and the header itself, in that order; so bytes of an earlier
// life, of another segment, of another place, or a frame forged inside a
// client's record never verify. The payload's checksums cover stored bytes
// only: a payload can move under a new header without being touched.
//
// docs/format.md has the byte tables.
//
// # Poison
//
// The first failed write or sync of a segment in use poisons the journal for
// good: Append and Sync return ErrPoisoned ever after, with the first cause.
// Nothing is retried. Preparing spares is not part of that: it fails, says so
// through Events, is retried later, and meanwhile admission counts fewer bytes.
// Nor is a renaming that is refused for want of space, of which nothing has
// happened: what is dead gives its space up for it, and then it is tried again.
package segment
