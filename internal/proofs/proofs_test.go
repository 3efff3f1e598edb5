package proofs

import (
	"errors"
	"strings"
	"testing"
)

// TestMachine tells what this machine has for proofs. It fails where they are
// required and something that is lacking is not listed.
func TestMachine(t *testing.T) {
	l, err := readListing()
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range all() {
		lacking := probes[n]()
		if lacking == nil {
			t.Logf("%s: there", n)
			continue
		}
		if err := l.judge(n, lacking, required()); err != nil {
			t.Error(err)
			continue
		}
		t.Logf("NOT PROVED HERE: what needs %s: %s", n, l.say(n, lacking))
	}
}

// ended is the test that Need ends.
type ended struct {
	testing.TB // what Need does not call
	failed     bool
	skipped    bool
	said       string
}

func (e *ended) Helper() {}

func (e *ended) Fatal(args ...any) {
	e.failed, e.said = true, args[0].(error).Error()
	panic(e)
}

func (e *ended) Skip(args ...any) {
	e.skipped, e.said = true, args[0].(string)
	panic(e)
}

// TestNeed asks for what the machine has, and for what it lacks: at home it is
// skipped, where proofs are required it fails.
func TestNeed(t *testing.T) {
	const one Thing = "one"
	var lacking error
	probes[one] = func() error { return lacking }
	defer delete(probes, one)
	need := func() (e *ended) {
		e = &ended{}
		defer func() {
			if r := recover(); r != nil && r != any(e) {
				panic(r)
			}
		}()
		Need(e, one)
		return e
	}
	for _, tc := range []struct {
		name            string
		lacking         error
		value           string
		failed, skipped bool
	}{
		{"there", nil, "", false, false},
		{"there and required", nil, "required", false, false},
		{"lacking", errors.New("it broke"), "", false, true},
		{"lacking and required", errors.New("it broke"), "required", true, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Setenv(variable, tc.value)
			lacking = tc.lacking
			e := need()
			if e.failed != tc.failed || e.skipped != tc.skipped {
				t.Errorf("failed %t, skipped %t: %s", e.failed, e.skipped, e.said)
			}
			if tc.lacking != nil && !strings.Contains(e.said, "lacks one: it broke") {
				t.Errorf("it says %q", e.said)
			}
		})
	}
}

// TestListing checks what a line of the file excuses, and which lines it may have.
func TestListing(t *testing.T) {
	l, err := parseListing("# a comment\n\n xfs: the kernel has none \n")
	if err != nil {
		t.Fatal(err)
	}
	broke := errors.New("it broke")
	if err := l.judge(XFS, broke, true); err != nil {
		t.Errorf("listed, and still %v", err)
	}
	if err := l.judge(FUSE, broke, true); !errors.Is(err, ErrNotListed) || !errors.Is(err, broke) {
		t.Errorf("not listed: %v", err)
	}
	if s := l.say(XFS, broke); !strings.Contains(s, "it broke") || !strings.Contains(s, "the kernel has none") {
		t.Errorf("it says %q", s)
	}
	for _, text := range []string{"zfs: nobody has it", "xfs", "xfs:", "xfs: a\nxfs: b"} {
		if _, err := parseListing(text); err == nil {
			t.Errorf("%q is read", text)
		}
	}
}
