package bench

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

const metrics = `# HELP go_memstats_mallocs_total Total number of heap objects allocated.
# TYPE go_memstats_mallocs_total counter
go_memstats_mallocs_total 1.5e+06
go_memstats_heap_alloc_bytes 2e+06
process_resident_memory_bytes 3e+06
walsvc_records_total %d
walsvc_frame_records_bucket{le="1"} 7
`

func TestScrape(t *testing.T) {
	records := 40
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path != "/metrics":
			http.NotFound(w, r)
		case records < 0:
			fmt.Fprint(w, "go_memstats_mallocs_total 1\n")
		default:
			fmt.Fprintf(w, metrics, records)
		}
	}))
	defer s.Close()
	if _, err := findAdmin("ready unix:/v/walsvc.sock"); err == nil {
		t.Error("an admin address of a service that has none")
	}
	a, err := findAdmin("\n  | recovered: new\n  | admin " + s.URL + "\n  | ready unix:/v/walsvc.sock")
	if err != nil {
		t.Fatal(err)
	}
	defer a.close()
	got, err := a.scrape(t.Context())
	if err != nil || got[metricMallocs] != 1.5e6 || got[metricHeap] != 2e6 || got[metricRSS] != 3e6 || got[metricRecords] != 40 {
		t.Errorf("%v, %v", got, err)
	}
	counted, err := a.countAllocs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	records = 90
	if per, err := counted(); err != nil || per == nil || *per != 0 {
		t.Errorf("per append %v, %v", per, err)
	}
	records = -1
	if _, err := counted(); err == nil || !strings.Contains(err.Error(), metricHeap) {
		t.Errorf("a metric is missing: %v", err)
	}
	s.Close()
	if _, err := a.countAllocs(t.Context()); err == nil {
		t.Error("counted where nobody answers")
	}
	if counted, err = (*admin)(nil).countAllocs(t.Context()); err != nil {
		t.Fatal(err)
	}
	if per, err := counted(); per != nil || err != nil {
		t.Errorf("somebody else's: %v, %v", per, err)
	}
}

func TestAllocsPerRecord(t *testing.T) {
	at := func(mallocs, records float64) map[string]float64 {
		return map[string]float64{metricMallocs: mallocs, metricRecords: records}
	}
	// A question costs 100: of the 600 since the last one, 500 are the load's.
	if got := allocsPerRecord(at(900, 10), at(1000, 10), at(1600, 1010)); got == nil || *got != 0.5 {
		t.Errorf("%v, want 0.5", got)
	}
	if got := allocsPerRecord(at(900, 10), at(1000, 10), at(1050, 20)); got == nil || *got != 0 {
		t.Errorf("%v, want 0", got)
	}
	if got := allocsPerRecord(at(0, 0), at(0, 0), at(100, 0)); got != nil {
		t.Errorf("%v of no records", *got)
	}
}
