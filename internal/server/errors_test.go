package server

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/internal/records"
	walsvcv1 "github.com/walsvc/walsvc/proto/walsvc/v1"
	"github.com/walsvc/walsvc/wal"
)

// TestTableBothWays: every row is found by its error, however deeply wrapped,
// and by its reason, and by nothing else.
func TestTableBothWays(t *testing.T) {
	reasons := map[string]bool{}
	for _, row := range Table {
		if reasons[row.Reason] {
			t.Errorf("%s twice", row.Reason)
		}
		reasons[row.Reason] = true
		if row.Reason != strings.ToUpper(row.Reason) || strings.ContainsAny(row.Reason, " -") || row.Hint == "" {
			t.Errorf("row %+v", row)
		}
		if row.Means == "" || row.Effect.String() != "nothing" && row.Effect.String() != "unknown" {
			t.Errorf("%s is not explained: say what it means and what the call left behind", row.Reason)
		}
		wrapped := fmt.Errorf("append to log %q: %w", "l", fmt.Errorf("deep: %w", row.Err))
		if got, ok := rowOf(wrapped); !ok || !errors.Is(got.Err, row.Err) {
			t.Errorf("%v is found as %v", row.Err, got.Err)
		}

		st := status.Convert(Status(wrapped))
		var info *errdetails.ErrorInfo
		var retry *errdetails.RetryInfo
		for _, d := range st.Details() {
			switch d := d.(type) {
			case *errdetails.ErrorInfo:
				info = d
			case *errdetails.RetryInfo:
				retry = d
			}
		}
		if st.Code() != row.Code || info.GetReason() != row.Reason || info.GetDomain() != Domain || retry.GetRetryDelay().AsDuration() != row.Retry {
			t.Errorf("status of %s: %v %v", row.Reason, st.Code(), st.Details())
		}
		r := Refusal(wrapped)
		if codes.Code(r.GetCode()) != row.Code || r.GetReason() != row.Reason || r.GetMessage() != st.Message() {
			t.Errorf("refusal of %s: %v", row.Reason, r)
		}
		if want := row.Retry.Milliseconds(); want > 0 && r.GetMetadata()["retry_ms"] != fmt.Sprint(want) {
			t.Errorf("refusal of %s: %v", row.Reason, r.GetMetadata())
		}
	}
}

// TestEveryRefusalOfTheEngineIsInTheTable reads the engine's source: an error
// that is added there and not here would leave as INTERNAL.
func TestEveryRefusalOfTheEngineIsInTheTable(t *testing.T) {
	// Of opening and looking at volumes: there is no service then.
	offline := []string{"ErrNoVolume", "ErrVersion", "ErrInUse", "ErrDamaged", "ErrBadCommand", "ErrPlanStale", "ErrBeyondRepair"}
	var inTable []string
	for _, row := range Table {
		inTable = append(inTable, row.Err.Error())
	}
	found := 0
	for _, file := range parsed(t, "../../wal") {
		ast.Inspect(file, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if !ok || len(spec.Values) != 1 || !strings.HasPrefix(spec.Names[0].Name, "Err") {
				return true
			}
			call, ok := spec.Values[0].(*ast.CallExpr)
			if !ok || len(call.Args) != 1 {
				return true
			}
			text, ok := call.Args[0].(*ast.BasicLit)
			if !ok {
				return true
			}
			found++
			name := spec.Names[0].Name
			if slices.Contains(inTable, strings.Trim(text.Value, `"`)) == slices.Contains(offline, name) {
				t.Errorf("wal.%s: in the table or not, and should not or should", name)
			}
			return true
		})
	}
	if found < 30 {
		t.Errorf("found %d errors in package wal", found)
	}
}

// parsed returns the files of a package, without its tests.
func parsed(t testing.TB, dir string) (files []*ast.File) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, file)
	}
	return files
}

func TestFigures(t *testing.T) {
	for _, tc := range []struct {
		err  error
		want string
	}{
		{&wal.RangeError{Log: "l", Asked: 9, First: 2, Next: 5, Err: wal.ErrLSNAhead}, "map[first_lsn:2 log:l lsn:9 next_lsn:5]"},
		{&wal.RangeError{Log: "l", Since: time.Unix(0, 1), First: 2, Next: 5, Err: wal.ErrLSNTruncated}, "map[first_lsn:2 from_time:1970-01-01T00:00:00.000000001Z log:l next_lsn:5]"},
		{&wal.MismatchError{Log: "l", Expected: 9, Next: 5}, "map[expected_lsn:9 log:l next_lsn:5]"},
		{&wal.SequenceError{Log: "l", Got: 9, Want: 5}, "map[log:l sequence:9 want_sequence:5]"},
		{&wal.ConflictError{Log: "l", Checkpoint: "c", Expected: 9, Version: 5}, "map[checkpoint:c expected_version:9 log:l version:5]"},
		{&wal.NoCheckpointError{Log: "l", Checkpoint: "c", Next: 10}, "map[checkpoint:c log:l next_version:10]"},
		{&wal.DataLossError{Log: "l", First: 2, Last: 5}, "map[first_lsn:2 last_lsn:5 log:l]"},
		{&wal.DataLossError{Log: "l"}, "map[log:l]"},
		{fmt.Errorf("%w: %w", wal.ErrTooLarge, &records.TooLargeError{Record: 3, Size: 9, Limit: 5}), "map[limit:5 record:3 size:9]"},
		{&wal.RateError{Log: "l", Rate: 2048, After: time.Second}, "map[log:l rate_bytes:2048]"},
		{&wal.PartError{Log: "p", Err: &wal.MismatchError{Log: "p", Expected: 9, Next: 5}}, "map[expected_lsn:9 log:p next_lsn:5]"},
		{&wal.PartError{Log: "p", Err: wal.ErrQuota}, "map[log:p]"},
		{wal.ErrFull, "map[]"},
	} {
		if got := fmt.Sprint(figures(fmt.Errorf("wrapped: %w", tc.err))); got != tc.want {
			t.Errorf("figures of %v: %s, want %s", tc.err, got, tc.want)
		}
	}
}

// TestRetryIsTheErrorsOwn: how long a log is over its rate is known exactly, and
// told in milliseconds that are not too few.
func TestRetryIsTheErrorsOwn(t *testing.T) {
	err := fmt.Errorf("append: %w", &wal.RateError{Log: "l", Rate: 2048, After: 1500*time.Microsecond + 1})
	const want = 2 * time.Millisecond
	if ms := Refusal(err).GetMetadata()["retry_ms"]; ms != "2" {
		t.Errorf("a refusal says %q", ms)
	}
	for _, d := range status.Convert(Status(err)).Details() {
		if d, ok := d.(*errdetails.RetryInfo); ok && d.GetRetryDelay().AsDuration() != want {
			t.Errorf("a status says %v", d.GetRetryDelay().AsDuration())
		}
	}
}

// TestNothingOfTheHostLeaks: the text of a cause goes out only where it speaks
// of the caller's own input.
func TestNothingOfTheHostLeaks(t *testing.T) {
	secret := &fs.PathError{Op: "write", Path: "/srv/secret/0001.wal", Err: errors.New("input/output error")}
	for _, base := range []error{wal.ErrPoisoned, wal.ErrFull, wal.ErrReadOnly, wal.ErrClosed, ErrOutcomeUnknown, errors.New("unforeseen")} {
		err := fmt.Errorf("append: %w: %w", base, secret)
		for _, text := range []string{Status(err).Error(), Refusal(err).GetMessage()} {
			if strings.Contains(text, "secret") || strings.Contains(text, "unforeseen") {
				t.Errorf("%v leaks: %s", base, text)
			}
		}
	}
	if code, reason := reasonOf(Status(secret)); code != codes.Internal || reason != "INTERNAL" {
		t.Errorf("unforeseen: %v/%s", code, reason)
	}
}

// TestLongNamesAreNotQuotedWhole: the text of a status is in a header, and a header
// that the client does not take ends its connection, with all that was on it.
func TestLongNamesAreNotQuotedWhole(t *testing.T) {
	w := newWorld(t, Options{})
	w.create("l")
	s := w.open()
	long := strings.Repeat("\x00", 5<<20) // four times as long when it is quoted
	logs, appends := walsvcv1.NewLogServiceClient(w.conn), walsvcv1.NewAppendServiceClient(w.conn)
	_, err := logs.CreateLog(w.ctx, &walsvcv1.CreateLogRequest{Name: "m", Options: &walsvcv1.LogOptions{Labels: map[string]string{long: ""}}})
	wantReason(t, err, codes.InvalidArgument, "INVALID")
	_, err = appends.Resolve(w.ctx, &walsvcv1.ResolveRequest{Log: long})
	wantReason(t, err, codes.InvalidArgument, "INVALID")
	_, err = logs.RewindLog(w.ctx, &walsvcv1.RewindLogRequest{Name: long})
	wantReason(t, err, codes.InvalidArgument, "INVALID")
	if bound := s.bind(&walsvcv1.Bind{Binding: 1, Log: "l"}); bound.GetRefusal() != nil {
		t.Errorf("on a stream beside: %v", bound)
	}
}

// TestTextsAreCutBetweenCharacters: what is half of one is no text, and could not be sent.
func TestTextsAreCutBetweenCharacters(t *testing.T) {
	for n := range len("語") {
		err := fmt.Errorf("%w: %s%s", wal.ErrInvalid, strings.Repeat("x", n), strings.Repeat("語", maxText))
		text := Refusal(err).GetMessage()
		if len(text) > maxText || len(text) < maxText-len("語") || !utf8.ValidString(text) || !strings.HasSuffix(text, "語...") {
			t.Errorf("%d bytes, of at most %d: %q", len(text), maxText, text)
		}
	}
}

func TestStatusOfContextsAndStatuses(t *testing.T) {
	for _, tc := range []struct {
		err  error
		want codes.Code
	}{
		{nil, codes.OK},
		{fmt.Errorf("wait: %w", context.Canceled), codes.Canceled},
		{fmt.Errorf("wait: %w", context.DeadlineExceeded), codes.DeadlineExceeded},
		{status.Error(codes.PermissionDenied, "no"), codes.PermissionDenied},
	} {
		if code, reason := reasonOf(Status(tc.err)); code != tc.want || reason != "" {
			t.Errorf("%v: %v/%s, want %v without a reason", tc.err, code, reason, tc.want)
		}
	}
}

// TestEveryLimitIsAdvertisedOrIsNobodysBusiness reads package limits.
func TestEveryLimitIsAdvertisedOrIsNobodysBusiness(t *testing.T) {
	// What no client can meet: the shape of files, and how the engine breathes.
	inside := []string{
		"BlockSize", "SegmentHeaderSize", "FrameHeaderSize", "DefaultSegmentSize", "MinSegmentSize", "MaxSegmentSize",
		"MaxFrameSize", "MaxDirectorySize", "MaxBlocksPerFrame", "MaxSealSize", "MaxSegments", "MaxSpares", "MaxLostRanges",
		"TargetBlockSize", "FrameFullSize", "FrameFullCommands", "MaxCommandsPerFrame", "MaxOpenSegments", "OpenSegmentIdle", "LoneFrameSize", "DirectWriteSize", "ReadBackFactor", "MaxReadBack", "ReplayReadAhead", "ReplayFramesAhead",
		// Of a repair, of the listener for operators, and of certifying disks.
		"MaxLostRanges", "MaxCommandsTogether", "MaxMovedBytes", "MaxMovedBatches", "MoveGain", "MoveRate", "AdminTimeout", "MaxAdminHeaderBytes", "MaxAdminConnections", "ReservedFiles", "HoldersPerPage", "MaxScrapes", "MaxWitnessLine", "MaxWitnessRuns", "MaxWitnessConnections",
	}
	var names []string
	for _, file := range parsed(t, "../limits") {
		ast.Inspect(file, func(n ast.Node) bool {
			if spec, ok := n.(*ast.ValueSpec); ok && ast.IsExported(spec.Names[0].Name) {
				names = append(names, spec.Names[0].Name)
			}
			return true
		})
	}
	if len(names) < 40 {
		t.Errorf("found %d limits", len(names))
	}
	told := map[string]uint64{}
	for _, l := range advertised() {
		if _, twice := told[l.GetName()]; twice {
			t.Errorf("%s is advertised twice", l.GetName())
		}
		told[l.GetName()] = l.GetValue()
	}
	for _, name := range names {
		if _, ok := told[name]; ok == slices.Contains(inside, name) {
			t.Errorf("limits.%s: a client can meet it, or cannot, and is not told, or is", name)
		}
		delete(told, name)
	}
	for name := range told {
		t.Errorf("%s is advertised and is no limit", name)
	}
	for _, l := range advertised() {
		if l.GetName() == "HeartbeatInterval" && (l.GetUnit() != "ms" || l.GetValue() != uint64(limits.HeartbeatInterval/time.Millisecond)) {
			t.Errorf("%v", l)
		}
	}
}
