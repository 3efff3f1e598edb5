package bench

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
)

// An admin is the admin address of a service, asked for what nothing else
// tells. A nil *admin has nothing to tell.
type admin struct {
	url  string
	http *http.Client
}

// The metrics that are asked for, as Prometheus spells them.
const (
	metricMallocs   = "go_memstats_mallocs_total"     // objects allocated on the heap
	metricAllocated = "go_memstats_alloc_bytes_total" // bytes of them
	metricHeap      = "go_memstats_heap_alloc_bytes"
	metricRSS       = "process_resident_memory_bytes"
	metricRecords   = "walsvc_records_total"
)

var saidAdmin = regexp.MustCompile(`(?m)^.*\badmin (http://\S+)$`)

// findAdmin finds the admin address in what a service printed. It must be
// closed.
func findAdmin(said string) (*admin, error) {
	m := saidAdmin.FindStringSubmatch(said)
	if m == nil {
		return nil, fmt.Errorf("walsvc does not say where its admin address is: %s", said)
	}
	// A packed answer would be the larger part of what an answer costs.
	return &admin{url: m[1] + "/metrics", http: &http.Client{Transport: &http.Transport{DisableCompression: true}}}, nil
}

func (a *admin) close() {
	if a != nil {
		a.http.CloseIdleConnections()
	}
}

// scrape returns all metrics that are plain numbers, by name.
func (a *admin) scrape(ctx context.Context) (_ map[string]float64, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, a.url, http.NoBody)
	if err != nil {
		return nil, err
	}
	answer, err := a.http.Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = answer.Body.Close() }() // it is read to its end
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", a.url, answer.Status)
	}
	all := map[string]float64{}
	lines := bufio.NewScanner(answer.Body)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), " ")
		if v, err := strconv.ParseFloat(value, 64); err == nil {
			all[name] = v
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", a.url, err)
	}
	for _, name := range []string{metricMallocs, metricHeap, metricRSS, metricRecords} {
		if _, ok := all[name]; !ok {
			return nil, fmt.Errorf("%s has no %s", a.url, name)
		}
	}
	return all, nil
}

// countAllocs begins to count what the service allocates. The returned function
// ends it and returns how many objects it was per record that became durable
// meanwhile; nil if there were none, or there is nobody to ask.
//
// Asking allocates: some thousand objects, which are much where an append takes
// a hundredth of one. From one question to the next, with nothing between them,
// it is what one question costs, and that is taken off.
func (a *admin) countAllocs(ctx context.Context) (func() (*float64, error), error) {
	if a == nil {
		return func() (*float64, error) { return nil, nil }, nil
	}
	var asked [3]map[string]float64
	for i := range asked { // the first one connects
		var err error
		if asked[i], err = a.scrape(ctx); err != nil {
			return nil, fmt.Errorf("count allocations: %w", err)
		}
	}
	return func() (*float64, error) {
		end, err := a.scrape(ctx)
		if err != nil {
			return nil, fmt.Errorf("count allocations: %w", err)
		}
		return allocsPerRecord(asked[1], asked[2], end), nil
	}, nil
}

// allocsPerRecord is a pure function of three answers: two with nothing between
// them, and one after the load.
func allocsPerRecord(before, begin, end map[string]float64) *float64 {
	records := end[metricRecords] - begin[metricRecords]
	if records <= 0 {
		return nil
	}
	asking := begin[metricMallocs] - before[metricMallocs]
	per := max(end[metricMallocs]-begin[metricMallocs]-asking, 0) / records
	return &per
}
