package telemetry

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/walsvc/walsvc/wal"
)

// A Name is a metric and what it means.
type Name struct {
	Name string
	Type string // counter, gauge or histogram
	Help string
}

// A reading is a metric that the engine keeps, asked for at each scrape.
type reading struct {
	Name
	of func(wal.Status) float64
}

const (
	counter   = "counter"
	gauge     = "gauge"
	histogram = "histogram"
)

var readings = []reading{
	{Name{"walsvc_frames_total", counter, "Group commits: frames of commands that became durable."},
		func(s wal.Status) float64 { return float64(s.Commits) }},
	{Name{"walsvc_syncs_total", counter, "Syncs of the journal, those for snapshots and promises included."},
		func(s wal.Status) float64 { return float64(s.Syncs) }},
	{Name{"walsvc_records_total", counter, "Records that became durable."},
		func(s wal.Status) float64 { return float64(s.Records) }},
	{Name{"walsvc_record_bytes_total", counter, "Bytes of these records, as clients sent them."},
		func(s wal.Status) float64 { return float64(s.RawBytes) }},
	{Name{"walsvc_stored_bytes_total", counter, "Bytes that the blocks of durable frames take."},
		func(s wal.Status) float64 { return float64(s.StoredBytes) }},
	{Name{"walsvc_segment_rolls_total", counter, "Segments sealed."},
		func(s wal.Status) float64 { return float64(s.Rolls) }},
	{Name{"walsvc_segment_recycles_total", counter, "Segments given back for use by later ones."},
		func(s wal.Status) float64 { return float64(s.Recycles) }},
	{Name{"walsvc_snapshots_total", counter, "Snapshots written."},
		func(s wal.Status) float64 { return float64(s.Snapshots) }},
	{Name{"walsvc_cursors_evicted_total", counter, "Cursors that held more than their caps and were evicted: their readers lose records."},
		func(s wal.Status) float64 { return float64(s.CursorsEvicted) }},
	{Name{"walsvc_writer_changes_total", counter, "Writers of logs that were acquired or released: each began an epoch."},
		func(s wal.Status) float64 { return float64(s.WriterChanges) }},
	{Name{"walsvc_producers_retired_total", counter, "Producers that were retired: nothing more of them lands."},
		func(s wal.Status) float64 { return float64(s.ProducersRetired) }},
	{Name{"walsvc_producers_made_way_total", counter, "Producers that lost their slots to others: of their batches only the number is remembered."},
		func(s wal.Status) float64 { return float64(s.ProducersMadeWay) }},
	{Name{"walsvc_producers_resolved_total", counter, "Times that what a producer had under way was ended, to say what became of a batch."},
		func(s wal.Status) float64 { return float64(s.ProducersResolved) }},
	{Name{"walsvc_moved_records_total", counter, "Live records of logs copied forward, out of segments that nobody else kept."},
		func(s wal.Status) float64 { return float64(s.MovedRecords) }},
	{Name{"walsvc_moved_bytes_total", counter, "Bytes of these records."},
		func(s wal.Status) float64 { return float64(s.MovedBytes) }},
	{Name{"walsvc_durable_frame", gauge, "Sequence of the last durable frame."},
		func(s wal.Status) float64 { return float64(s.DurableFrame) }},
	{Name{"walsvc_logs", gauge, "Logs in the volume."},
		func(s wal.Status) float64 { return float64(s.Logs) }},
	{Name{"walsvc_segments", gauge, "Segments of the journal."},
		func(s wal.Status) float64 { return float64(s.Segments) }},
	{Name{"walsvc_spare_segments", gauge, "Segments prepared and not in use."},
		func(s wal.Status) float64 { return float64(s.Spares) }},
	{Name{"walsvc_appendable_bytes", gauge, "Bytes that can be appended before another segment has to be prepared."},
		func(s wal.Status) float64 { return float64(s.AppendableBytes) }},
	{Name{"walsvc_disk_free_bytes", gauge, "Bytes free on the volume's file system."},
		func(s wal.Status) float64 { return float64(s.DiskFree) }},
	{Name{"walsvc_poisoned", gauge, "1 if a write or sync failed and nothing more is taken until a restart, otherwise 0."},
		is(wal.Poisoned)},
	{Name{"walsvc_read_only", gauge, "1 if the volume was opened read-only because of damage, otherwise 0."},
		is(wal.ReadOnly)},
	{Name{"walsvc_disk_stalled", gauge, "1 while an operation of the disk hangs, otherwise 0."},
		is(wal.DiskStalled)},
	{Name{"walsvc_disk_stalls_total", counter, "Times that the disk hung."},
		func(s wal.Status) float64 { return float64(s.Stalls) }},
	{Name{"walsvc_full", gauge, "1 while there is room for no append at all, otherwise 0; larger ones are refused before, and counted with reason FULL."},
		is(wal.Full)},
}

// refused is a counter for each reason. The engine counts them in an array, and the
// label is put on when it is scraped.
var refused = Name{"walsvc_appends_refused_total", counter, "Batches that were refused, by `reason` as in the table of errors; `OTHER` for those that are not counted apart."}

// reasons are the labels of refused.
var reasons = [wal.Refusals]string{
	wal.RefusedAfter: "AFTER_REFUSAL", wal.RefusedFenced: "FENCED", wal.RefusedLSN: "LSN_MISMATCH", wal.RefusedQuota: "QUOTA",
	wal.RefusedRate: "RATE_QUOTA", wal.RefusedFull: "FULL", wal.RefusedOther: "OTHER",
}

func is(state wal.VolumeState) func(wal.Status) float64 {
	return func(s wal.Status) float64 {
		if s.State == state {
			return 1
		}
		return 0
	}
}

// Buckets of the histograms. Disks take from some microseconds, of memory
// that has a battery, to seconds, of one that fails.
var (
	seconds = prometheus.ExponentialBuckets(10e-6, 2, 20) // to 5.2 s
	counts  = prometheus.ExponentialBuckets(1, 2, 17)     // to 65,536
	bytes   = prometheus.ExponentialBuckets(256, 2, 18)   // to 32 MiB
	ratios  = []float64{1, 1.25, 1.5, 2, 3, 4, 6, 8, 12, 16, 32}
)

// An observation is a histogram over frames of commands.
type observation struct {
	Name
	buckets []float64
	of      func(wal.FrameInfo) float64
}

var observations = []observation{
	{Name{"walsvc_frame_queue_seconds", histogram, "Time that the first append of a frame waited for the disk to be ready."},
		seconds, func(f wal.FrameInfo) float64 { return f.Queue.Seconds() }},
	{Name{"walsvc_frame_compress_seconds", histogram, "Time for compressing what was not compressed while the frame waited."},
		seconds, func(f wal.FrameInfo) float64 { return f.Compress.Seconds() }},
	{Name{"walsvc_frame_write_seconds", histogram, "Time for writing a frame, beginning a segment for it included."},
		seconds, func(f wal.FrameInfo) float64 { return f.Write.Seconds() }},
	{Name{"walsvc_frame_sync_seconds", histogram, "Time for syncing a frame."},
		seconds, func(f wal.FrameInfo) float64 { return f.Sync.Seconds() }},
	{Name{"walsvc_frame_ack_seconds", histogram, "Time from a frame being durable until the last of its appenders was told."},
		seconds, func(f wal.FrameInfo) float64 { return f.Ack.Seconds() }},
	{Name{"walsvc_frame_records", histogram, "Records in a frame, which is records per sync."},
		counts, func(f wal.FrameInfo) float64 { return float64(f.Records) }},
	{Name{"walsvc_frame_bytes", histogram, "Bytes of a frame before compression, which is bytes per sync."},
		bytes, func(f wal.FrameInfo) float64 { return float64(f.RawSize) }},
	{Name{"walsvc_frame_compression_ratio", histogram, "Bytes of a frame before compression over those it takes."},
		ratios, func(f wal.FrameInfo) float64 { return float64(f.RawSize) / float64(max(f.StoredSize, 1)) }},
}

// Names lists what walsvc measures, in the order of the documentation.
func Names() []Name {
	var names []Name
	for _, r := range readings {
		names = append(names, r.Name)
	}
	names = append(names, refused)
	for _, o := range observations {
		names = append(names, o.Name)
	}
	return names
}

// Metrics keeps the figures of one process. Its methods are safe for
// concurrent use.
type Metrics struct {
	registry   *prometheus.Registry
	histograms []prometheus.Histogram // in the order of observations
	status     atomic.Pointer[func() wal.Status]
}

// NewMetrics returns metrics that know of no volume yet.
func NewMetrics() *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry()}
	m.registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		newVolumeCollector(m),
	)
	for _, o := range observations {
		h := prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: o.Name.Name, Help: o.Help, Buckets: o.buckets,
			NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 160,
		})
		m.registry.MustRegister(h)
		m.histograms = append(m.histograms, h)
	}
	return m
}

// Frame counts a durable frame. It is made for wal.Events. Frames without
// commands, which nobody waits for, are left out.
func (m *Metrics) Frame(f wal.FrameInfo) {
	if f.Commands == 0 {
		return
	}
	for i, o := range observations {
		m.histograms[i].Observe(o.of(f))
	}
}

// Watch has status asked at every scrape from now on. Before, there are no
// figures of a volume: absent is not zero.
func (m *Metrics) Watch(status func() wal.Status) { m.status.Store(&status) }

// state returns the volume's, and whether there is a volume.
func (m *Metrics) state() (wal.Status, bool) {
	if status := m.status.Load(); status != nil {
		return (*status)(), true
	}
	return wal.Status{}, false
}

// A volumeCollector asks the volume once for all readings of a scrape.
type volumeCollector struct {
	metrics *Metrics
	descs   []*prometheus.Desc // in the order of readings
	refused *prometheus.Desc
}

func newVolumeCollector(m *Metrics) volumeCollector {
	c := volumeCollector{metrics: m, refused: prometheus.NewDesc(refused.Name, refused.Help, []string{"reason"}, nil)}
	for _, r := range readings {
		c.descs = append(c.descs, prometheus.NewDesc(r.Name.Name, r.Help, nil, nil))
	}
	return c
}

// Describe implements prometheus.Collector.
func (c volumeCollector) Describe(descs chan<- *prometheus.Desc) {
	for _, d := range c.descs {
		descs <- d
	}
	descs <- c.refused
}

// Collect implements prometheus.Collector.
func (c volumeCollector) Collect(metrics chan<- prometheus.Metric) {
	s, ok := c.metrics.state()
	if !ok {
		return
	}
	for i, r := range readings {
		t := prometheus.GaugeValue
		if r.Type == counter {
			t = prometheus.CounterValue
		}
		metrics <- prometheus.MustNewConstMetric(c.descs[i], t, r.of(s))
	}
	for i, n := range s.Refused {
		metrics <- prometheus.MustNewConstMetric(c.refused, prometheus.CounterValue, float64(n), reasons[i])
	}
}
