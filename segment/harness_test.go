package segment

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/limits"
)

// A survivor is a frame that a scan found.
type survivor struct {
	Header
	n   int // the number of the draft, 0 for a seal
	end Cut // the cut behind it
	d   Draft
}

// survivors scans a journal as recovery does, in the simplest way: it reads
// everything. It returns the frames in order and how to go on behind them:
// rewriting those that no frame behind them promises.
func survivors(j *Journal) ([]survivor, Resume, error) {
	var found []survivor
	ids := j.Segments()
	if len(ids) == 0 {
		return nil, Resume{}, nil
	}
	first, err := j.Header(ids[0])
	if err != nil {
		return nil, Resume{}, err
	}
	cut, base := first.Cut, first.Cut
	dead := Pos{ids[len(ids)-1], limits.SegmentHeaderSize}
	for i, id := range ids {
		hdr, err := j.Header(id)
		if err != nil {
			return nil, Resume{}, err
		}
		r, err := j.Reader(id)
		if err != nil {
			return nil, Resume{}, err
		}
		last := i == len(ids)-1
		if i > 0 && id != ids[i-1]+1 && id == j.Behind(ids[i-1]) {
			// A gap. Its first header has the end of what is before.
			first, err := j.Header(ids[i-1] + 1)
			if err != nil || first.Cut != cut {
				return nil, Resume{}, errors.Join(fmt.Errorf("the gap before %s begins behind %+v, the frames end at %+v: %w", id, first, cut, err), r.Close())
			}
			cut, base = hdr.Cut, hdr.Cut
		}
		if hdr.Cut != cut {
			// Begun, and the predecessor's seal never became durable: then nothing
			// can have been appended here.
			var frames int
			err := r.Lookahead(0, func(Header, int64) bool { frames++; return true })
			if err = errors.Join(err, r.Close()); err != nil || frames > 0 || !last || hdr.Cut.Sequence != cut.Sequence+1 {
				return nil, Resume{}, fmt.Errorf("segment %s begins behind %+v, the frames end at %+v: %w", id, hdr.Cut, cut, err)
			}
			break
		}
		until := Pos{id, hdr.Size}
		if !last {
			next, err := j.Header(id + 1)
			if err != nil {
				return nil, Resume{}, err
			}
			until = next.Cut.End
		}
		for off := int64(limits.SegmentHeaderSize); off < until.Offset; {
			s, err := readSurvivor(r, off)
			if errors.Is(err, ErrNoFrame) || errors.Is(err, ErrBadDirectory) || errors.Is(err, ErrBadBlock) {
				break
			}
			if err != nil {
				return nil, Resume{}, err
			}
			if s.Sequence != cut.Sequence+1 || s.Chain != cut.Chain {
				break
			}
			cut, off = s.end, s.end.End.Offset
			found = append(found, s)
			if last {
				dead = cut.End
			}
		}
		if err := r.Close(); err != nil {
			return nil, Resume{}, err
		}
	}
	// What is kept ends behind the last promised frame; the rest is rewritten,
	// apart from a seal, of which there is one at most, at the end.
	promised := base.Sequence
	for _, s := range found {
		promised = max(promised, s.Promise)
	}
	res := Resume{Cut: base, DeadFrom: dead}
	for _, s := range found {
		switch {
		case s.Sequence <= base.Sequence: // before the last gap
		case s.Sequence <= promised:
			res.Cut = s.end
		case s.Kind != KindSeal:
			res.Rewrite = append(res.Rewrite, s.d)
		}
	}
	return found, res, nil
}

func readSurvivor(r *Reader, off int64) (survivor, error) {
	f, err := r.Frame(off)
	if err != nil {
		return survivor{}, err
	}
	s := survivor{Header: f.Header, end: Cut{End: f.End(), Last: f.Pos, Sequence: f.Header.Sequence, Chain: f.Header.Checksum, Time: f.Header.Time}}
	s.d = Draft{Kind: f.Header.Kind, Time: f.Header.Time, Meta: f.Meta}
	for i, b := range f.Blocks {
		stored, err := r.Block(f, i, nil)
		if err != nil {
			return survivor{}, err
		}
		s.d.Blocks = append(s.d.Blocks, Block{Codec: b.Codec, RawSize: b.RawSize, Checksum: b.Checksum, Stored: stored})
	}
	if s.Kind != KindSeal {
		if s.n, err = strconv.Atoi(strings.TrimPrefix(string(f.Meta), "meta ")); err != nil {
			return survivor{}, err
		}
	}
	return s, nil
}

// checkSurvivors wants the drafts from at most gone+1 to at least durable,
// without a gap, and returns the number of the last one.
func checkSurvivors(found []survivor, gone, durable int) (last int, err error) {
	last = gone
	for _, s := range found {
		switch {
		case s.Kind == KindSeal:
		case last == gone && s.n <= gone+1, s.n == last+1:
			last = s.n
		default:
			return 0, fmt.Errorf("draft %d follows %d", s.n, last)
		}
	}
	if last < durable {
		return 0, fmt.Errorf("drafts end at %d, durable was %d", last, durable)
	}
	return last, nil
}

// reopen opens what a crash left, checks it, resumes, and returns the journal
// and the last draft in it.
func reopen(o Options, gone, durable int) (*Journal, int, error) {
	j, err := Open(o)
	if err != nil {
		return nil, 0, err
	}
	found, res, err := survivors(j)
	last := 0
	if err == nil {
		last, err = checkSurvivors(found, gone, durable)
	}
	if err == nil {
		_, err = j.Resume(res)
	}
	if err != nil {
		return nil, 0, errors.Join(err, j.Close())
	}
	return j, last, nil
}

// awaitPool waits until the preparer has nothing to do: all spares are there,
// or it failed.
func awaitPool(t testing.TB, j *Journal) {
	t.Helper()
	for {
		j.mu.Lock()
		idle, changed := len(j.spares) >= j.target || j.prepareErr != nil || j.poison != nil, j.changed
		j.mu.Unlock()
		if idle {
			return
		}
		select {
		case <-changed:
		case <-t.Context().Done():
			t.Fatal("the preparer does not come to rest")
		}
	}
}

// mutates reports whether an operation changes what a crash leaves.
func mutates(op disk.Op) bool {
	switch op.Kind {
	case disk.OpCreate, disk.OpRename, disk.OpRemove, disk.OpSyncDir, disk.OpWrite, disk.OpSync, disk.OpTruncate:
		return op.Done()
	}
	return false
}
