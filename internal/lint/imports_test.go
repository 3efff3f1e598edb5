package lint

import (
	"maps"
	"slices"
	"strings"
	"testing"
)

// leaves are what everybody may import. They know nothing of what walsvc is
// made of, only how something is spelled or how large it may be.
var leaves = []string{"internal/limits", "internal/codec", "internal/records", "internal/gather", "internal/crc32c"}

// A direction says what a package's code may import of ours besides leaves.
type direction struct {
	may []string
	why string
}

// directions is docs/design.md's picture of the packages: arrows go down only.
// A package that is not here yet is a decision not made yet.
var directions = map[string]direction{
	"internal/limits":  {nil, "a bound depends on nothing"},
	"internal/codec":   {nil, "a leaf: compresses bytes and knows of nothing else"},
	"internal/records": {nil, "a leaf: spells records and knows of nothing else"},
	"internal/disk":    {nil, "a seam over the file system, not a part of the engine"},

	"internal/awake":  {nil, "asks the kernel; for whom, its callers know"},
	"internal/crc32c": {nil, "a leaf: arithmetic with checksums"},
	"internal/gather": {nil, "a leaf: arithmetic for whoever lets rides begin"},

	"internal/processors": {nil, "asks Go's runtime; for whom, its callers know"},

	"segment": {[]string{"internal/disk"}, "it keeps frames of opaque bytes, and does not know what a command or a log is"},
	"replay":  {[]string{"segment"}, "it reads what segment wrote and never writes; it does not know what a log is"},
	"batcher": {nil, "the bus knows neither its passengers nor where it goes, so it can be tested without a disk"},
	"wal":     {[]string{"batcher", "replay", "segment", "internal/disk"}, "the engine does not know how it is reached"},

	"proto/walsvc/v1": {nil, "generated: the wire alone"},
	"internal/wire":   {[]string{"proto/walsvc/v1"}, "client and server spell messages alike; neither engine nor policy belongs here"},
	"internal/server": {[]string{"proto/walsvc/v1", "internal/wire", "wal"},
		"what it needs of the journal it asks the engine for: a path around wal is a path around sequencing and promises"},
	"internal/telemetry": {[]string{"wal"}, "it counts what the engine tells and asks for what the engine counts; neither knows Prometheus"},
	"internal/config":    {[]string{"internal/disk"}, "settings are read before anything exists"},
	"client":             {[]string{"proto/walsvc/v1", "internal/wire"}, "other programs import it: the engine must not come along, nor be needed"},

	"internal/docstore": {[]string{"client"}, "an engine on top of walsvc sees of it what any user sees"},
	"internal/process":  {nil, "runs any program; which, its callers know"},
	"internal/service":  {[]string{"internal/process"}, "it starts and stops a process; what that serves is not its business"},
	"internal/bench":    {[]string{"client", "proto/walsvc/v1", "batcher", "segment", "internal/disk", "internal/plot", "internal/service", "testdata"}, "what is measured goes through the client, as any user's does; the ladder takes the engine apart"},
	"internal/plot":     {nil, "a leaf: draws what it is given, and knows of nothing else"},
	"internal/certify":  {[]string{"wal", "internal/disk", "internal/bench"}, "loads a disk through what a volume uses, and times it as walctl disk does"},
	"internal/e2e":      {nil, "tests alone: what happens to the process that is shipped"},
	"internal/lint":     {nil, "reads sources as text"},
	"internal/mutants":  {nil, "tests alone: patches the sources as text and runs their tests"},
	"internal/proofs":   {nil, "for tests alone: asks what the machine has"},
	"internal/allocs":   {nil, "for tests alone: counts the memory that a call takes"},
	"testdata":          {nil, "data that never changes"},

	"cmd":        {nil, "tests alone: scripts that run both binaries as their users do"},
	"cmd/walsvc": {[]string{"internal/awake", "internal/config", "internal/processors", "internal/server", "internal/telemetry", "segment", "wal"}, "wiring and signals"},
	"cmd/walctl": {[]string{"client", "proto/walsvc/v1", "wal", "replay", "segment", "internal/server", "internal/disk", "internal/bench", "internal/certify", "internal/docstore", "internal/service", "testdata"},
		"online through the client, offline and read-only through the engine; a command never imports another"},
}

// TestDirections checks what each package imports of ours.
func TestDirections(t *testing.T) {
	r := repository(t)
	seen := map[string]bool{}
	for _, f := range r.code {
		if f.apart {
			continue
		}
		seen[f.dir] = true
		d, known := directions[f.dir]
		if !known {
			t.Errorf("%s: say in directions what package %s may import, and why", f.name, f.dir)
			continue
		}
		if f.test {
			continue
		}
		for _, p := range f.imports() {
			if to, ok := ours(p); ok && !slices.Contains(leaves, to) && !slices.Contains(d.may, to) {
				t.Errorf("%s imports %s, and %s may not: %s", f.name, to, f.dir, d.why)
			}
		}
	}
	for _, dir := range slices.Sorted(maps.Keys(directions)) {
		if !seen[dir] {
			t.Errorf("directions has %s, which does not exist", dir)
		}
	}
}

// strangers are packages of others, and of the standard library, that only some
// of ours may reach. A path stands for what is below it too.
var strangers = []struct {
	path  string
	users map[string]string // who imports it, and what for
}{
	{"os", map[string]string{
		"internal/awake":      "the device that takes the request",
		"internal/disk":       "the only place that touches the files of a volume",
		"internal/docstore":   "the demonstration's engine has checkpoint files of its own",
		"internal/bench":      "measures the user's disk below walsvc, and a naive log beside it",
		"internal/process":    "a process and its environment",
		"internal/processors": "whether GOMAXPROCS was set",
		"internal/service":    "runs a process",
		"internal/proofs":     "tries what the machine has",
		"internal/mutants":    "reads patches",
		"internal/server":     "the socket's file, and resident memory from /proc",
		"cmd/walsvc":          "a process",
		"cmd/walctl":          "a process",
	}},
	{"os/exec", map[string]string{
		"internal/process": "runs what is measured and proven",
		"internal/service": "runs walsvc",
		"internal/proofs":  "mkfs, losetup and mount",
		"cmd/walctl":       "builds walsvc when it is run from source",
	}},
	{"syscall", map[string]string{
		"internal/disk":    "error numbers of the disk",
		"segment":          "tells a full disk (ENOSPC, EDQUOT) from a failed one",
		"internal/process": "process groups",
		"internal/service": "SIGTERM",
		"internal/proofs":  "mounts FUSE",

		"internal/processors": "the time of processors that was used",

		"cmd/walsvc": "SIGTERM",
		"cmd/walctl": "SIGTERM",
	}},
	{"golang.org/x/sys", map[string]string{
		"internal/disk":  "fdatasync, O_DIRECT and flock",
		"internal/bench": "measures what fallocate alone is worth",
		"cmd/walctl":     "asks whether anybody still reads what it follows",
	}},
	{"net", map[string]string{
		"internal/server":    "listens",
		"internal/config":    "checks addresses",
		"internal/bench":     "bare gRPC, for comparison",
		"internal/certify":   "a witness on another machine",
		"cmd/walctl":         "bare gRPC, for comparison; listens as a witness",
		"internal/telemetry": "serves on the admin address",
		"client":             "dials",
		"cmd/walsvc":         "listens",
	}},
	{"google.golang.org/grpc", map[string]string{
		"proto/walsvc/v1":  "generated",
		"internal/wire":    "its codec",
		"internal/server":  "serves",
		"internal/service": "asks for health",
		"internal/bench":   "bare gRPC, for comparison",
		"client":           "calls",
	}},
	{"google.golang.org/protobuf", map[string]string{
		"proto/walsvc/v1": "generated",
		"internal/wire":   "the messages that need not be fast",
		"internal/server": "answers",
		"client":          "spells times",
	}},
	{"github.com/prometheus", map[string]string{
		"internal/telemetry": "the only one that names a metric",
	}},
	{"net/http", map[string]string{
		"internal/telemetry": "the admin address",
		"internal/bench":     "asks there",
	}},
	{"log", nil}, // log/slog has no global that everybody writes to by accident
	{"io/ioutil", nil},
}

// exact are paths that do not stand for what is below them.
var exact = []string{"os", "log", "net"}

// TestStrangers checks who imports what of others, directly. Together with
// TestDirections that says who reaches it: the engine imports none of ours that
// has gRPC, protobuf or the operating system, internal/disk apart.
func TestStrangers(t *testing.T) {
	r := repository(t)
	for _, s := range strangers {
		used := map[string]bool{}
		for _, f := range r.code {
			if f.test || f.apart {
				continue
			}
			for _, p := range f.imports() {
				if p != s.path && (slices.Contains(exact, s.path) || !strings.HasPrefix(p, s.path+"/")) {
					continue
				}
				used[f.dir] = true
				if _, ok := s.users[f.dir]; !ok {
					t.Errorf("%s imports %s, which is not for %s", f.name, p, f.dir)
				}
			}
		}
		for dir := range s.users {
			if !used[dir] {
				t.Errorf("strangers lets %s import %s, which it does not", dir, s.path)
			}
		}
	}
}

// engine is what must be able to live without a network.
var engine = []string{"wal", "batcher", "segment", "replay"}

// TestEngineTests checks that the engine's tests, too, know no gRPC and no
// protobuf: what cannot be tested without them is in the wrong place.
func TestEngineTests(t *testing.T) {
	for _, f := range repository(t).code {
		if !f.test || !slices.Contains(engine, f.dir) {
			continue
		}
		for _, p := range f.imports() {
			if strings.HasPrefix(p, "google.golang.org/") || strings.HasPrefix(p, module+"/proto/") || strings.HasPrefix(p, module+"/internal/server") {
				t.Errorf("%s imports %s", f.name, p)
			}
		}
	}
}
