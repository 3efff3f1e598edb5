// Package replay turns a journal back into frames, in order, and says honestly
// how the run of frames ends. It never writes: it returns what recovery found
// and what has to be done, and segment.Journal.Resume does it. It does not know
// what a command or a log is.
//
// It has three users: the volume when it opens (Recover), readers and followers
// (Scanner, Fetcher), and walctl on a volume that may be in use (Walk, and
// Recover over a journal opened read-only).
//
// # Recovery
//
//	newest segment's header          where the two newest snapshots' scans begin
//	scan from the newest snapshot    header by header, directory by directory;
//	                                 blocks are left alone until somebody asks
//	the end                          the tail rule says what it means
//	cut                              behind the last promised frame
//	rewrite                          frames behind the cut that verify, blocks
//	                                 included, get new headers in a fresh
//	                                 segment and are synced there: they were
//	                                 found in a page cache that may outlive a
//	                                 crash and a failed sync, so they are never
//	                                 vouched for where they lie
//
// If the newest snapshot does not open, the scan begins again at the older one;
// if that does not either, at those that the headers of earlier segments know,
// and at last at the volume's first segment, provided it still is the journal's
// beginning. As long as one of the first two opens, the cost is bounded by the
// distance between snapshots and one segment's length, not by the journal's.
//
// A seal whose directory does not verify ends no scan if its successor proves
// that it was durable: all it carries is an index, and that is a cache.
//
// No scan that rebuilds a state goes over a gap, which was released from the middle of the
// journal: it ends there as at a segment that is missing. Opening begins behind all gaps,
// unless no snapshot there opens. Walk goes over them.
//
// # The tail rule
//
// A bad frame is damage if something later that verifies proves that it was
// durable, or a client proves that it was acknowledged. Otherwise it is torn:
// it was never acknowledged, since an acknowledged frame was durable, and
// durable bytes do not tear. Four things prove that frames were durable:
//
//   - the promise in a frame's header: all up to that sequence. All headers of
//     this life count, also those behind a hole, and those that a cut made dead
//   - the header of a segment that a roll began: all before the seal of the one
//     before, which is synced before the successor gets its name
//   - the header of a segment that recovery began: all before its cut, since
//     only what was found promised is kept where it lies
//   - a frame in a segment: all of the segments before
//
// The cases have names (Case), a table (Rules) and a transcript each under
// testdata/tail. What is damaged is named, with everything behind it left as it
// is, and the volume is only read; what is torn is cut off by the next
// segment's header, and never comes back.
//
// One case cannot be decided by the volume alone: rot in the very last
// acknowledged frame, before any later frame carried its promise, looks torn.
// A promise frame 50 ms after the last append and at shutdown keeps that window
// short, and a client that states what it was last acknowledged closes it.
package replay
