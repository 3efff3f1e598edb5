package bench

import (
	"context"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"
)

// OpenLoad says what is opened, and how often.
type OpenLoad struct {
	Small    int64 // what the segments of the small journal take at least, in bytes
	Large    int64 // the same of the large one
	Size     int   // of a record in bytes
	Rounds   int
	Progress func(done, all int, what string)
}

// An Opening is a journal that was opened after SIGKILL with nothing of it in
// the page cache.
type Opening struct {
	JournalBytes uint64    `json:"journal_bytes"` // of its segments
	Logs         int       `json:"logs"`          // with records in it
	OpenUS       float64   `json:"open_us"`       // from starting the process until it is ready: the median
	Rounds       []float64 `json:"rounds_us"`     // each of them
}

// An OpenReport is what `walctl bench open -o json` prints.
type OpenReport struct {
	Openings []Opening `json:"openings"` // of the small journal, and of the large one
	Goals    []Goal    `json:"goals"`
}

// Openings fills the target's logs until the journal is small, and then until it
// is large, and each time kills the service and starts it, again and again. The
// target must have a service of its own, and nothing may be truncated.
func (t *Target) Openings(ctx context.Context, l OpenLoad) (*OpenReport, error) {
	if t.process == nil {
		return nil, errNotOwn
	}
	r := &OpenReport{}
	for i, journal := range []int64{l.Small, l.Large} {
		say := func(n int, what string) {
			if l.Progress != nil {
				l.Progress(i*(l.Rounds+1)+n, 2*(l.Rounds+1), what)
			}
		}
		say(0, "appending "+SizeName(journal))
		at, err := t.grow(ctx, l.Size, journal)
		if err != nil {
			return nil, fmt.Errorf("fill: %w", err)
		}
		o := Opening{JournalBytes: at, Logs: len(t.logs)}
		for n := range l.Rounds {
			say(1+n, "killing and starting the service")
			took, err := t.restartCold(ctx)
			if err != nil {
				return nil, err
			}
			o.Rounds = append(o.Rounds, float64(took.Nanoseconds())/1e3)
		}
		o.OpenUS = Median(o.Rounds)
		r.Openings = append(r.Openings, o)
	}
	r.Goals = openGoals(r.Openings[0], r.Openings[1])
	return r, nil
}

// openGoals is a pure function of the two.
func openGoals(small, large Opening) []Goal {
	gib := float64(large.JournalBytes) / (1 << 30)
	return []Goal{
		{What: "open, cold, after SIGKILL", Got: large.OpenUS / 1e3, Gate: 500, Aim: 200, AtMost: true, Unit: " ms",
			Beside: fmt.Sprintf("a journal of %.1f GiB, %d logs", gib, large.Logs)},
		{What: "to a small journal", Got: ratio(large.OpenUS, small.OpenUS), Gate: 2, AtMost: true, Unit: "x",
			Beside: fmt.Sprintf("%.0f ms with %.2f GiB", small.OpenUS/1e3, float64(small.JournalBytes)/(1<<30))},
	}
}

// growBound bounds how long it takes to fill a journal.
const growBound = time.Hour

// grow appends to all logs until the journal's segments take so many bytes, and
// returns how many they take.
func (t *Target) grow(ctx context.Context, size int, bytes int64) (at uint64, err error) {
	if err := t.open(ctx); err != nil {
		return 0, err
	}
	enough, err := appendUntil(ctx, Load{Callers: 1, Size: size, Pipelined: true, Duration: growBound}, t.Logs, func() (bool, error) {
		s, err := t.Status(ctx)
		at = s.GetSegments() * s.GetSegmentBytes()
		return at >= uint64(bytes), err
	})
	if err == nil && !enough {
		err = fmt.Errorf("%s after %v", SizeName(int64(at)), growBound)
	}
	return at, err
}

// restartCold restarts the service with nothing of its volume in the page cache.
func (t *Target) restartCold(ctx context.Context) (time.Duration, error) {
	if err := t.process.Kill(); err != nil {
		return 0, fmt.Errorf("kill: %w", err)
	}
	err := filepath.WalkDir(t.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		return evict(path)
	})
	if err != nil {
		return 0, fmt.Errorf("empty the page cache: %w", err)
	}
	return t.restart(ctx)
}
