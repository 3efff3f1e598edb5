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
