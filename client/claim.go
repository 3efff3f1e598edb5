package client

import (
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/internal/crc32c"
	"github.com/walsvc/walsvc/internal/records"
	walsvcv1 "github.com/walsvc/walsvc/proto/walsvc/v1"
)

// A Claim is what a client was last acknowledged of a log, or has last read: a
// record and, with the checksum, everything up to it. The service proves that it
// has exactly that, or answers ErrDataLoss: not a shorter log, nor another one.
//
// A Client states what it was acknowledged by itself, for as long as it lives. An
// engine that wants the same across its own restarts keeps the Claim of its last
// Receipt, as text if it likes, and hands it to Log.Resume when it starts.
type Claim struct {
	Log         ulid.ULID
	Epoch       uint64
	LSN         LSN    // 0 claims nothing
	LogChecksum uint32 // behind LSN
}

// Claim returns what the receipt proves.
func (r Receipt) Claim() Claim { return Claim{r.Log, r.Epoch, r.Through, r.LogChecksum} }

// Claim returns the log's end as a claim.
func (i LogInfo) Claim() Claim { return Claim{i.ID, i.Epoch, i.Durable(), i.LogChecksum} }

// IsZero reports whether the claim is the zero one, which claims nothing.
func (c Claim) IsZero() bool { return c == Claim{} }

// String returns the claim as text, "01K0WB3V8Q6Y2N4M5P7R9S1T3V/1/42/8f3a21c0":
// log, epoch, LSN and checksum. ParseClaim reads it. The zero claim is empty.
func (c Claim) String() string {
	if c.IsZero() {
		return ""
	}
	return fmt.Sprintf("%s/%d/%d/%08x", c.Log, c.Epoch, c.LSN, c.LogChecksum)
}

// ParseClaim reads what String returns, and nothing else: it returns ErrInvalid.
func ParseClaim(s string) (Claim, error) {
	if s == "" {
		return Claim{}, nil
	}
	var c Claim
	parts := strings.Split(s, "/")
	bad := len(parts) != 4
	if !bad {
		var errs [4]error
		var sum uint64
		c.Log, errs[0] = ulid.ParseStrict(parts[0])
		c.Epoch, errs[1] = strconv.ParseUint(parts[1], 10, 64)
		var lsn uint64
		lsn, errs[2] = strconv.ParseUint(parts[2], 10, 64)
		sum, errs[3] = strconv.ParseUint(parts[3], 16, 32)
		c.LSN, c.LogChecksum = LSN(lsn), uint32(sum)
		for _, err := range errs {
			bad = bad || err != nil
		}
	}
	if bad || c.String() != s { // one spelling: a claim that was tampered with is none
		return Claim{}, fmt.Errorf("claim %q: %w: want log/epoch/lsn/checksum", s, ErrInvalid)
	}
	return c, nil
}

// MarshalText implements encoding.TextMarshaler; see String.
func (c Claim) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler; see ParseClaim.
func (c *Claim) UnmarshalText(text []byte) (err error) {
	*c, err = ParseClaim(string(text))
	return err
}

// message returns the claim as it is stated; nil if it claims nothing.
func (c Claim) message() *walsvcv1.Claim {
	if c.LSN == 0 {
		return nil
	}
	return &walsvcv1.Claim{LogId: c.Log.String(), Epoch: c.Epoch, Lsn: uint64(c.LSN), LogChecksum: c.LogChecksum}
}

// extend moves the claim to the end of records that were read, if they reach
// beyond it and nothing lies between. A claim that they leave behind stays as it
// is: it still holds.
func (c *Claim) extend(p *part) error {
	last := p.first + LSN(p.count) - 1
	if last <= c.LSN || p.first > c.LSN+1 {
		return nil
	}
	run, err := records.Skip(p.run, int(c.LSN+1-p.first))
	if err != nil {
		return fmt.Errorf("LSN %d: %w: %w", p.first, ErrProtocol, err)
	}
	if p.summed && len(run) == len(p.run) {
		c.LogChecksum = crc32c.Extend(c.LogChecksum, run, p.sum)
	} else {
		c.LogChecksum = crc32.Update(c.LogChecksum, castagnoli, run)
	}
	c.LSN = last
	return nil
}

// Claim returns what this client was last acknowledged of the log, or what Resume
// was given; the zero Claim if it is neither.
func (l *Log) Claim() Claim {
	l.stream.mu.Lock()
	defer l.stream.mu.Unlock()
	return l.claim
}

// Resume has the client state c from now on, with the first append to the log as
// with every replay, as if it had been acknowledged that itself: for a process
// that was, before it was restarted. If the service cannot prove c, appends and
// replays fail with ErrDataLoss, and nothing lands.
//
// It comes before the first append to the log, else it returns ErrInvalid. A
// claim of nothing changes nothing.
func (l *Log) Resume(c Claim) error {
	if c.LSN == 0 {
		return nil
	}
	s := l.stream
	s.mu.Lock()
	defer s.mu.Unlock()
	if l.phase != unopened || l.claim.LSN > 0 {
		return fmt.Errorf("resume log %q at LSN %d: %w: the client has appended to it, or resumed it, already", l.name, c.LSN, ErrInvalid)
	}
	l.claim = c
	return nil
}
