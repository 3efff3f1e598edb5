package client_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/walsvc/walsvc/client"
	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/records"
)

// TestSmallSegments appends to a volume whose largest batch is smaller than what the
// client would join: it joins no more than that, and what is too large alone is refused
// here, with the limit, while all around it lands.
func TestSmallSegments(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	v := openVolume(t, disk.NewMem()) // of the smallest segments there are
	socket := t.TempDir() + "/s"
	stop := serveVolume(t, v, socket)
	defer stop()
	c, err := client.Open(ctx, socket, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.Background())
	together := client.LogOptions{ColocationKey: "engine"}
	log, other := create(t, c, "log", together), create(t, c, "other", together)

	most := v.MaxBatch()
	largest := bytes.Repeat([]byte{'l'}, most)
	for records.Size(len(largest)) > most {
		largest = largest[1:]
	}
	refused := func(err error) {
		t.Helper()
		if !errors.Is(err, client.ErrTooLarge) || errors.Is(err, client.ErrUnknownOutcome) || !strings.Contains(err.Error(), fmt.Sprint(most)) {
			t.Errorf("too large: %v, want one that says %d", err, most)
		}
	}
	var futures []*client.Future
	small := bytes.Repeat([]byte{'s'}, 1000)
	for i := range 300 {
		futures = append(futures, log.AppendAsync(ctx, small))
		if i%100 == 50 {
			refused(log.AppendAsync(ctx, append(largest, 'x')).NotTaken())
			futures = append(futures, log.AppendAsync(ctx, largest))
		}
	}
	for i, f := range futures {
		if r, err := f.Wait(ctx); err != nil || r.LSN != client.LSN(i+1) {
			t.Fatalf("append %d of %d: %+v, %v", i, len(futures), r, err)
		}
	}
	_, err = log.AppendBatch(ctx, [][]byte{largest, nil})
	refused(err)
	g, err := c.Group(log, other)
	if err != nil {
		t.Fatal(err)
	}
	_, err = g.Append(ctx, client.Part{Records: [][]byte{largest[:most/2]}}, client.Part{Records: [][]byte{largest[:most/2]}})
	refused(err)
	if _, err := g.Append(ctx, client.Part{Records: [][]byte{largest[:most/2]}}, client.Part{Records: [][]byte{largest[:most/3]}}); err != nil {
		t.Error(err)
	}
}
