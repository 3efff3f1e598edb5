package main

import (
	"encoding/json"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/walsvc/walsvc/client"
)

// recorder takes pieces, and then fails.
type recorder struct {
	pieces []string
	err    error
}

func (r *recorder) Write(b []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	r.pieces = append(r.pieces, string(b))
	return len(b), nil
}

func TestLazyWriterGathersAndDoesNotSitOnLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r recorder
		l := newLazyWriter(&r)
		for _, line := range []string{"a\n", "b\n"} {
			if err := l.write([]byte(line)); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(laziness) // of the bubble's clock
		synctest.Wait()
		if len(r.pieces) != 1 || r.pieces[0] != "a\nb\n" {
			t.Fatalf("written by now: %q", r.pieces)
		}
		if err := l.write([]byte("c\n")); err != nil {
			t.Fatal(err)
		}
		if err := l.close(); err != nil {
			t.Fatal(err)
		}
		if len(r.pieces) != 2 || r.pieces[1] != "c\n" {
			t.Errorf("written in the end: %q", r.pieces)
		}

		r.err = errors.New("no space left")
		if err := l.write([]byte("d\n")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(laziness)
		synctest.Wait()
		if err := l.write([]byte("e\n")); !errors.Is(err, r.err) {
			t.Errorf("the error of a background write came back as %v", err)
		}
	})
}

func TestTimeFlag(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for text, want := range map[string]string{
			"2026-03-09T14:00:00Z":        "2026-03-09T14:00:00Z",
			"2026-03-09T14:00:00.5+02:00": "2026-03-09T12:00:00.5Z",
			"2h":                          "1999-12-31T22:00:00Z", // a bubble begins with the year 2000
			"90m ago":                     "1999-12-31T22:30:00Z",
			"0s":                          "2000-01-01T00:00:00Z",
		} {
			var f timeFlag
			if err := f.Set(text); err != nil || f.String() != want {
				t.Errorf("%q is %s, %v; want %s", text, &f, err, want)
			}
		}
		for _, text := range []string{"", "-2h", "yesterday", "2026-03-09", "ago", "2026-03-09T14:00:00Z ago"} {
			var f timeFlag
			if err := f.Set(text); err == nil {
				t.Errorf("%q is %s", text, &f)
			}
		}
	})
}

func TestRecordsAsJSON(t *testing.T) {
	for data, want := range map[string]string{
		"":          `{"lsn":7,"data":""}`,
		"{\"a\":1}": `{"lsn":7,"data":"{\"a\":1}"}`,
		"\xff\x00":  `{"lsn":7,"data_base64":"/wA="}`,
	} {
		got, err := json.Marshal(newRecordResult(client.Record{LSN: 7, Data: []byte(data)}))
		if err != nil || string(got) != want {
			t.Errorf("%q is %s, %v; want %s", data, got, err, want)
		}
	}
}
