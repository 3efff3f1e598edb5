package linear

import (
	"hash/crc32"
	"strconv"
	"testing"

	"github.com/anishathalye/porcupine"
)

// A script makes histories by hand, of one log that exists.
type script struct{ history }

func newScript() *script {
	s := &script{}
	s.live(false)
	s.do(input{Kind: createLog}, output{Created: true, Info: s.info(1, 1)})
	return s
}

// begin begins an operation, which ends with what the client hears.
func (s *script) begin(in input) (end func(output)) {
	in.Log = steady
	o := s.history.begin(0, in)
	return func(out output) { s.end(o, out) }
}

// do is an operation alone.
func (s *script) do(in input, out output) { s.begin(in)(out) }

// info is the log without records, or with one, "a", or two, "a" and "b".
func (s *script) info(first, next uint64) *info {
	run := frame([]string{"a", "b"}[:next-1])
	return &info{ID: "x", Epoch: 1, First: first, Next: next, Live: 3 * (next - first), Sum: crc32.Checksum(run, castagnoli)}
}

func (s *script) append(data string, out output) {
	s.do(input{Kind: appendRecords, Records: []string{data}}, out)
}

func (s *script) appended(data string, at uint64) { s.append(data, output{First: at, Count: 1}) }

// read reads all from an LSN on.
func (s *script) read(from uint64, data ...string) {
	s.do(input{Kind: readRecords, LSN: from}, output{First: from, Records: data, Complete: true})
}

// produced appends as a producer's batch.
func (s *script) produced(sequence uint64, data string, out output) {
	s.do(input{Kind: appendRecords, Producer: "p", Sequence: sequence, Records: []string{data}}, out)
}

// acquire asks for the writer, with a request that is the holder's.
func (s *script) acquire(holder string, out output) {
	s.do(input{Kind: acquireWriter, Name: holder, Request: holder}, out)
}

// owned is the log without records in an epoch.
func (s *script) owned(holder string, epoch uint64) *info {
	i := s.info(1, 1)
	i.Holder, i.Epoch = holder, epoch
	return i
}

// resolve asks for the first batch of the producer.
func (s *script) resolve(out output) {
	s.do(input{Kind: resolveBatch, Producer: "p", Sequence: 1}, out)
}

// rewound is the log in an epoch that a rewind began, with the records kept.
func (s *script) rewound(kept, epoch uint64) *info {
	i := s.info(1, kept+1)
	i.Epoch = epoch
	return i
}

// rewind discards the records behind the first ones, of three framed bytes each, in
// the log's first epoch.
func (s *script) rewind(kept, discarded uint64) {
	s.do(input{Kind: rewindLog, LSN: kept, Epoch: 1, Request: "r"}, output{Count: discarded, Bytes: 3 * discarded, Info: s.rewound(kept, 2)})
}

// rewind2 is rewind of a log that begins behind the first record.
func (s *script) rewind2(kept, discarded uint64) {
	i := s.info(2, 2)
	i.Epoch = 2
	s.do(input{Kind: rewindLog, LSN: kept, Epoch: 1, Request: "r"}, output{Count: discarded, Bytes: 3 * discarded, Info: i})
}

// told is a refusal that tells of a rewind.
func (s *script) told(epoch, kept, lsn, next uint64) output {
	figure := func(n uint64) string { return strconv.FormatUint(n, 10) }
	return output{Reason: rewound, Figures: map[string]string{"epoch": figure(epoch), "kept_lsn": figure(kept), "lsn": figure(lsn), "next_lsn": figure(next)}}
}

// timed appends "a" at a time and "b" two later.
func (s *script) timed() {
	s.append("a", output{First: 1, Count: 1, Committed: 5})
	s.append("b", output{First: 2, Count: 1, Committed: 7})
}

// receipt is that of a record, of those of info, committed at 5.
func (s *script) receipt(lsn uint64) receipt {
	return receipt{ID: "x", Of: "x", Name: steady, Epoch: 1, First: lsn, Last: lsn, Through: lsn, Sum: s.info(1, lsn+1).Sum, Committed: 5}
}

func (s *script) verify(r receipt, twist string, out output) {
	s.do(input{Kind: verifyReceipt, Receipt: &r, Twist: twist}, out)
}

// mark sets a cursor in front of all records.
func (s *script) mark(in input) {
	in.Kind, in.Name = setCursor, "m"
	s.do(in, output{Cursors: []cursor{{Name: "m", Cap: in.Cap, Hold: in.Hold}}})
}

// look looks at the cursor.
func (s *script) look(c cursor) {
	c.Name = "m"
	s.do(input{Kind: getCursor, Name: "m"}, output{Cursors: []cursor{c}})
}

// set sets a checkpoint that is then of that version.
func (s *script) set(lsn, version uint64) {
	s.do(input{Kind: setCheckpoint, Name: "c", LSN: lsn}, output{Checkpoints: []checkpoint{{Name: "c", LSN: lsn, Version: version}}})
}

// get gets a checkpoint.
func (s *script) get(lsn, version uint64) {
	s.do(input{Kind: getCheckpoint, Name: "c"}, output{Checkpoints: []checkpoint{{Name: "c", LSN: lsn, Version: version}}})
}

// mustBe fails the test if the history is anything else, or what is settled of it
// changes what it is.
func (s *script) mustBe(t *testing.T, want porcupine.CheckResult) {
	t.Helper()
	all := s.logs()[steady]
	if verdict := s.decide(all); verdict != want {
		t.Errorf("it is %s", verdict)
	}
	if verdict := porcupine.CheckOperationsTimeout(model, s.partition(all), patience); verdict != want {
		t.Errorf("it is %s with nothing settled", verdict)
	}
}

func refusedWith(reason string) output { return output{Reason: reason} }

// TestWrongHistories feeds the checker what must never happen: it has to see each.
func TestWrongHistories(t *testing.T) {
	for name, play := range map[string]func(*script){
		"an acknowledged append is lost": func(s *script) {
			s.appended("a", 1)
			s.live(false)
			s.read(1)
		},
		"and an append gets its LSN": func(s *script) {
			s.appended("a", 1)
			s.live(false)
			s.appended("b", 1)
		},
		"a read is stale": func(s *script) {
			s.appended("a", 1)
			s.appended("b", 2)
			s.read(1, "a")
		},
		"the log looks as it was before": func(s *script) {
			s.appended("a", 1)
			s.do(input{Kind: getLog}, output{Info: s.info(1, 1)})
		},
		"records change places": func(s *script) {
			s.appended("a", 1)
			s.appended("b", 2)
			s.read(1, "b", "a")
		},
		"records change places over a crash, though nobody was told of them": func(s *script) {
			s.append("a", output{Unknown: true})
			s.append("b", output{Unknown: true})
			s.read(1, "a", "b")
			s.live(false)
			s.read(1, "b", "a")
		},
		"what was shown is gone": func(s *script) {
			s.append("a", output{Unknown: true})
			s.read(1, "a")
			s.live(false)
			s.read(1)
		},
		"what a follower was shown is gone": func(s *script) {
			s.append("a", output{Unknown: true})
			s.do(input{Kind: seeRecords}, output{First: 1, Records: []string{"a"}})
			s.live(false)
			s.read(1)
		},
		"what was durable is not": func(s *script) {
			s.append("a", output{Unknown: true})
			s.do(input{Kind: seeDurable}, output{LSN: 1})
			s.live(false)
			s.read(1)
		},
		"a record that was cut off is back": func(s *script) {
			s.append("a", output{Unknown: true})
			s.live(false)
			s.read(1)
			s.live(false)
			s.read(1, "a")
		},
		"and is back in the same life": func(s *script) {
			s.append("a", output{Unknown: true})
			s.live(false)
			s.read(1)
			s.read(1, "a")
		},
		"what was refused is there": func(s *script) {
			s.do(input{Kind: appendRecords, Records: []string{"a"}, Expected: 2}, refusedWith(lsnMismatch))
			s.read(1, "a")
		},
		"there is a hole": func(s *script) {
			s.appended("a", 2)
		},
		"a batch is there in part": func(s *script) {
			s.do(input{Kind: appendRecords, Records: []string{"a", "b"}}, output{Unknown: true})
			s.read(1, "a")
		},
		"a batch is there twice": func(s *script) {
			s.append("a", output{Unknown: true})
			s.read(1, "a", "a")
		},
		"a retry is appended again": func(s *script) {
			s.do(input{Kind: openProducer, Producer: "p"}, output{})
			s.produced(1, "a", output{First: 1, Count: 1})
			s.produced(1, "a", output{First: 2, Count: 1})
		},
		"a retry is told another LSN": func(s *script) {
			s.do(input{Kind: openProducer, Producer: "p"}, output{})
			s.produced(1, "a", output{First: 1, Count: 1})
			s.live(false)
			s.appended("b", 2)
			s.produced(1, "a", output{First: 2, Count: 1, Repeated: true})
		},
		"a retry is appended again behind a crash, unheard": func(s *script) {
			s.do(input{Kind: openProducer, Producer: "p"}, output{})
			s.produced(1, "a", output{Unknown: true})
			s.live(false)
			s.produced(1, "a", output{Unknown: true})
			s.read(1, "a", "a")
		},
		"a producer is forgotten": func(s *script) {
			s.do(input{Kind: openProducer, Producer: "p"}, output{})
			s.live(false)
			s.produced(1, "a", refusedWith(noProducer))
		},
		"a sequence is skipped": func(s *script) {
			s.do(input{Kind: openProducer, Producer: "p"}, output{})
			s.produced(2, "a", output{First: 1, Count: 1})
		},
		"a checkpoint goes backwards": func(s *script) {
			s.appended("a", 1)
			s.appended("b", 2)
			s.set(2, 1)
			s.set(1, 2)
		},
		"a checkpoint is as it was before the crash but one": func(s *script) {
			s.appended("a", 1)
			s.set(0, 1)
			s.set(1, 2)
			s.live(false)
			s.get(0, 1)
		},
		"a checkpoint that was set is not there": func(s *script) {
			s.set(0, 1)
			s.live(false)
			s.do(input{Kind: getCheckpoint, Name: "c"}, refusedWith(checkpointNotFound))
		},
		"a refusal was decided on what is lost": func(s *script) {
			none := uint64(0)
			s.do(input{Kind: setCheckpoint, Name: "c"}, output{Unknown: true})
			s.do(input{Kind: setCheckpoint, Name: "c", Version: &none}, refusedWith(checkpointConflict))
			s.live(false)
			s.do(input{Kind: getCheckpoint, Name: "c"}, refusedWith(checkpointNotFound))
		},
		"a refused append was decided on what is lost": func(s *script) {
			s.append("a", output{Unknown: true})
			s.do(input{Kind: appendRecords, Records: []string{"b"}, Expected: 1}, output{Reason: lsnMismatch, Figures: map[string]string{"next_lsn": "2"}})
			s.live(false)
			s.do(input{Kind: getLog}, output{Info: s.info(1, 1)})
		},
		"a look shows what is lost": func(s *script) {
			s.append("a", output{Unknown: true})
			s.do(input{Kind: getLog}, output{Info: s.info(1, 2)})
			s.live(false)
			s.do(input{Kind: getLog}, output{Info: s.info(1, 1)})
		},
		"a record is there before it is sent again": func(s *script) {
			s.do(input{Kind: openProducer, Producer: "p"}, output{})
			s.produced(1, "a", output{Unknown: true})
			s.live(false)
			s.read(1)
			s.read(1, "a")
			s.produced(1, "a", output{Unknown: true})
		},
		"what nobody saw took an LSN": func(s *script) {
			s.append("a", output{Unknown: true})
			s.appended("b", 2)
			s.live(false)
			s.do(input{Kind: getLog}, output{Info: s.info(1, 2)})
		},
		"two set one version": func(s *script) {
			none := uint64(0)
			set := input{Kind: setCheckpoint, Name: "c", Version: &none}
			done := output{Checkpoints: []checkpoint{{Name: "c", Version: 1}}}
			one, two := s.begin(set), s.begin(set)
			one(done)
			two(done)
		},
		"a version is skipped": func(s *script) {
			s.do(input{Kind: setCheckpoint, Name: "c", State: "s"}, output{Unknown: true})
			s.set(0, 3)
		},
		"truncation passes a checkpoint": func(s *script) {
			s.appended("a", 1)
			s.set(0, 1)
			s.do(input{Kind: truncateLog, LSN: 2}, output{Info: s.info(2, 2)})
		},
		"records are given up by themselves that a checkpoint holds": func(s *script) {
			s.appended("a", 1)
			s.set(0, 1)
			s.do(input{Kind: readRecords, LSN: 1}, refusedWith(lsnTruncated))
		},
		"truncation is undone": func(s *script) {
			s.appended("a", 1)
			s.do(input{Kind: truncateLog, LSN: 2}, output{Info: s.info(2, 2)})
			s.live(false)
			s.read(1, "a")
		},
		"a record behind the seal": func(s *script) {
			i := s.info(1, 1)
			i.Sealed = true
			s.do(input{Kind: sealLog}, output{Info: i})
			s.appended("a", 1)
		},
		"a seal is taken back": func(s *script) {
			i := s.info(1, 1)
			i.Sealed = true
			s.do(input{Kind: sealLog}, output{Info: i})
			s.live(false)
			s.do(input{Kind: getLog}, output{Info: s.info(1, 1)})
		},
		"a wait ends with a seal that is behind what it waits for": func(s *script) {
			s.appended("a", 1)
			i := s.info(1, 2)
			i.Sealed = true
			s.do(input{Kind: sealLog}, output{Info: i})
			s.do(input{Kind: seeDurable, LSN: 1}, refusedWith(sealed))
		},
		"sealed by nobody": func(s *script) { s.append("a", refusedWith(sealed)) },
		"a deleted log is back": func(s *script) {
			s.do(input{Kind: deleteLog}, output{})
			s.live(false)
			s.do(input{Kind: getLog}, output{Info: s.info(1, 1)})
		},
		"a new log has the id of a deleted one": func(s *script) {
			s.do(input{Kind: deleteLog}, output{})
			s.do(input{Kind: createLog}, output{Created: true, Info: s.info(1, 1)})
		},
		"an epoch is told that is lost": func(s *script) {
			s.acquire("w", output{Unknown: true})
			s.do(input{Kind: getLog}, output{Info: s.owned("w", 2)})
			s.live(false)
			s.do(input{Kind: getLog}, output{Info: s.info(1, 1)})
		},
		"an epoch has two writers": func(s *script) {
			s.acquire("w", output{Info: s.owned("w", 2)})
			s.acquire("v", output{Info: s.owned("v", 2)})
		},
		"asking again begins another epoch": func(s *script) {
			s.acquire("w", output{Info: s.owned("w", 2)})
			s.acquire("w", output{Info: s.owned("w", 3)})
		},
		"a fenced writer appends": func(s *script) {
			s.acquire("w", output{Info: s.owned("w", 2)})
			s.do(input{Kind: appendRecords, Epoch: 1, Records: []string{"a"}}, output{First: 1, Count: 1})
		},
		"a fenced writer appends, unheard": func(s *script) {
			s.acquire("w", output{Info: s.owned("w", 2)})
			s.do(input{Kind: appendRecords, Epoch: 1, Records: []string{"a"}}, output{Unknown: true})
			s.read(1, "a")
		},
		"who states no epoch appends where there is a writer": func(s *script) {
			s.acquire("w", output{Info: s.owned("w", 2)})
			s.appended("a", 1)
		},
		"the writer is fenced": func(s *script) {
			s.acquire("w", output{Info: s.owned("w", 2)})
			s.do(input{Kind: appendRecords, Epoch: 2, Records: []string{"a"}}, refusedWith(fenced))
		},
		"a writer is released for another one": func(s *script) {
			s.acquire("w", output{Info: s.owned("w", 2)})
			s.do(input{Kind: releaseWriter, Epoch: 1}, output{Info: s.owned("", 3)})
		},
		"what was not written is": func(s *script) {
			s.do(input{Kind: openProducer, Producer: "p"}, output{})
			s.produced(1, "a", output{Unknown: true})
			s.resolve(output{Outcome: "NOT_WRITTEN", Incarnation: 2, Info: s.info(1, 1)})
			s.read(1, "a")
		},
		"what was committed is not": func(s *script) {
			s.do(input{Kind: openProducer, Producer: "p"}, output{})
			s.produced(1, "a", output{Unknown: true})
			s.resolve(output{Outcome: "COMMITTED", First: 1, Count: 1, Epoch: 1, Last: 1, Incarnation: 2, Info: s.info(1, 2)})
			s.live(false)
			s.read(1)
		},
		"a resolved producer goes on as it was": func(s *script) {
			s.do(input{Kind: openProducer, Producer: "p"}, output{})
			s.resolve(output{Outcome: "NOT_WRITTEN", Incarnation: 2, Info: s.info(1, 1)})
			s.produced(1, "a", output{First: 1, Count: 1})
		},
		"a stream loses its producer to nobody": func(s *script) {
			s.do(input{Kind: openProducer, Producer: "p"}, output{})
			s.do(input{Kind: appendRecords, Producer: "p", Stream: true, Sequence: 1, Records: []string{"a"}}, refusedWith(superseded))
		},
		"a resolution is lost": func(s *script) {
			s.do(input{Kind: openProducer, Producer: "p"}, output{})
			s.resolve(output{Outcome: "NOT_WRITTEN", Incarnation: 2, Info: s.info(1, 1)})
			s.live(false)
			s.resolve(output{Outcome: "NOT_WRITTEN", Incarnation: 2, Info: s.info(1, 1)})
		},
		"a retired producer appends": func(s *script) {
			s.do(input{Kind: openProducer, Producer: "p"}, output{})
			s.do(input{Kind: retireProducer, Producer: "p"}, output{})
			s.produced(1, "a", output{First: 1, Count: 1})
		},
		"and is opened again": func(s *script) {
			s.do(input{Kind: openProducer, Producer: "p"}, output{})
			s.do(input{Kind: retireProducer, Producer: "p"}, output{})
			s.live(false)
			s.do(input{Kind: openProducer, Producer: "p"}, output{})
		},
		"what was discarded is read": func(s *script) {
			s.appended("a", 1)
			s.appended("b", 2)
			s.rewind(1, 1)
			s.read(1, "a", "b")
		},
		"what was discarded is back behind a crash": func(s *script) {
			s.appended("a", 1)
			s.rewind(0, 1)
			s.live(false)
			s.read(1, "a")
		},
		"a rewind is undone by a crash": func(s *script) {
			s.appended("a", 1)
			s.rewind(0, 1)
			s.live(false)
			s.do(input{Kind: getLog}, output{Info: s.info(1, 2)})
		},
		"a rewind that nobody heard of comes and goes": func(s *script) {
			s.appended("a", 1)
			s.do(input{Kind: rewindLog, Epoch: 1, Request: "r"}, output{Unknown: true})
			s.read(1)
			s.live(false)
			s.read(1, "a")
		},
		"a rewind takes less than it says": func(s *script) {
			s.appended("a", 1)
			s.rewind(0, 2)
		},
		"a rewind's epoch is over, and it is done": func(s *script) {
			s.acquire("w", output{Info: s.owned("w", 2)})
			s.do(input{Kind: rewindLog, Epoch: 1}, output{Info: s.owned("", 3)})
		},
		"asking again discards again": func(s *script) {
			s.rewind(0, 0)
			s.appended("a", 1)
			s.do(input{Kind: rewindLog, Epoch: 1, Request: "r"}, output{Count: 1, Bytes: 3, Info: s.rewound(0, 3)})
		},
		"what states an epoch is done in the next one, though nobody was told of it": func(s *script) {
			s.do(input{Kind: appendRecords, Epoch: 1, Records: []string{"a"}}, output{Unknown: true})
			s.acquire("w", output{Info: s.owned("w", 2)})
			s.read(1)
			s.read(1, "a")
		},
		"who states the epoch before a rewind appends": func(s *script) {
			s.rewind(0, 0)
			s.do(input{Kind: appendRecords, Epoch: 1, Records: []string{"a"}}, output{First: 1, Count: 1})
		},
		"a rewind passes a checkpoint": func(s *script) {
			s.appended("a", 1)
			s.set(1, 1)
			s.rewind(0, 1)
		},
		"a rewind discards what it did not expect": func(s *script) {
			s.appended("a", 1)
			s.do(input{Kind: rewindLog, Epoch: 1, Expected: 1}, output{Count: 1, Bytes: 3, Info: s.rewound(0, 2)})
		},
		"a discarded batch is said to be there": func(s *script) {
			s.do(input{Kind: openProducer, Producer: "p"}, output{})
			s.produced(1, "a", output{First: 1, Count: 1})
			s.rewind(0, 1)
			s.produced(1, "a", output{First: 1, Count: 1, Repeated: true})
		},
		"a discarded batch is appended again": func(s *script) {
			s.do(input{Kind: openProducer, Producer: "p"}, output{})
			s.produced(1, "a", output{First: 1, Count: 1})
			s.rewind(0, 1)
			s.produced(1, "a", output{First: 1, Count: 1})
		},
		"a discarded batch is said to be committed": func(s *script) {
			s.do(input{Kind: openProducer, Producer: "p"}, output{})
			s.produced(1, "a", output{First: 1, Count: 1})
			s.rewind(0, 1)
			s.resolve(output{Outcome: "COMMITTED", First: 1, Count: 1, Epoch: 1, Last: 1, Incarnation: 2, Info: s.rewound(0, 2)})
		},
		"a batch is said to be discarded that is not": func(s *script) {
			s.do(input{Kind: openProducer, Producer: "p"}, output{})
			s.produced(1, "a", output{First: 1, Count: 1})
			s.rewind(1, 0)
			s.produced(1, "a", refusedWith(discarded))
		},
		"a reader of what was discarded goes on": func(s *script) {
			s.appended("a", 1)
			end := s.begin(input{Kind: seeRecords, LSN: 1})
			s.rewind(0, 1)
			s.appended("b", 1)
			s.appended("c", 2)
			end(output{First: 1, Records: []string{"a", "c"}})
		},
		"a cursor that was taken back goes on": func(s *script) {
			s.mark(input{Cap: 9})
			s.appended("a", 1)
			s.do(input{Kind: setCursor, Name: "m", LSN: 1, Cap: 9}, output{Cursors: []cursor{{Name: "m", LSN: 1, Cap: 9}}})
			s.rewind(0, 1)
			s.appended("b", 1)
			s.do(input{Kind: setCursor, Name: "m", LSN: 1, Cap: 9}, output{Cursors: []cursor{{Name: "m", LSN: 1, Cap: 9}}})
		},
		"a stream is not told of a rewind": func(s *script) {
			s.rewind(0, 0)
			s.do(input{Kind: appendRecords, Stream: true, Told: 1, Records: []string{"a"}}, output{First: 1, Count: 1})
		},
		"a rewind is told of that never was": func(s *script) {
			s.appended("a", 1)
			s.do(input{Kind: readRecords, LSN: 1}, s.told(2, 0, 1, 2))
		},
		"a rewind is told of that was over": func(s *script) {
			s.appended("a", 1)
			s.rewind(0, 1)
			s.do(input{Kind: readRecords, LSN: 1}, s.told(2, 0, 1, 1))
		},
		"so is an append": func(s *script) {
			s.rewind(0, 0)
			s.append("a", s.told(2, 0, 0, 1))
		},
		"and a wait": func(s *script) {
			s.rewind(0, 0)
			s.do(input{Kind: seeDurable, LSN: 1}, s.told(2, 0, 1, 1))
		},
		"a wait is told of a rewind that took nothing it waits for": func(s *script) {
			s.appended("a", 1)
			s.appended("b", 2)
			end := s.begin(input{Kind: seeDurable, LSN: 1})
			s.rewind(1, 1)
			end(s.told(2, 1, 1, 2))
		},
		"a read is told of a rewind behind an LSN that was none": func(s *script) {
			s.appended("a", 1)
			end := s.begin(input{Kind: readRecords, LSN: 1})
			s.rewind(0, 1)
			end(s.told(2, 0, 2, 1))
		},
		"a wait in an epoch that was rewound is told that it is fenced": func(s *script) {
			s.appended("a", 1)
			s.rewind(0, 1)
			s.do(input{Kind: seeDurable, LSN: 1, Epoch: 1}, output{Reason: fenced, Figures: map[string]string{"current_epoch": "2"}})
		},
		"what was written does not outlive the service": func(s *script) {
			s.do(input{Kind: appendRecords, Stream: true, Firm: true, Records: []string{"a"}}, output{Unknown: true, Written: true})
			s.live(true)
			s.read(1)
		},
		"what was written is there, and then is not": func(s *script) {
			s.do(input{Kind: appendRecords, Stream: true, Firm: true, Records: []string{"a"}}, output{Unknown: true, Written: true})
			s.live(true)
			s.live(false)
			s.read(1)
		},
		"what was written comes after what was asked for in the next life": func(s *script) {
			s.do(input{Kind: appendRecords, Stream: true, Firm: true, Records: []string{"a"}}, output{Unknown: true, Written: true})
			s.live(true)
			s.appended("b", 1)
			s.read(1, "b", "a")
		},
		"a receipt is not proven": func(s *script) {
			s.appended("a", 1)
			s.verify(s.receipt(1), "", output{Verdict: gone})
		},
		"a receipt is contradicted that nobody changed": func(s *script) {
			s.appended("a", 1)
			s.verify(s.receipt(1), "", output{Verdict: contradicted, Field: "log_checksum"})
		},
		"a lie is proven": func(s *script) {
			s.appended("a", 1)
			r := s.receipt(1)
			r.Sum++
			s.verify(r, "log_checksum", output{Verdict: proven, Committed: 5})
		},
		"a lie is found in another field": func(s *script) {
			s.appended("a", 1)
			r := s.receipt(1)
			r.Epoch++
			s.verify(r, "epoch", output{Verdict: contradicted, Field: "log_checksum"})
		},
		"a receipt is proven of what was discarded": func(s *script) {
			s.appended("a", 1)
			s.rewind(0, 1)
			s.appended("a", 1)
			s.verify(s.receipt(1), "", output{Verdict: proven, Committed: 5})
		},
		"a receipt is rewound of what stays": func(s *script) {
			s.appended("a", 1)
			s.rewind(1, 0)
			s.verify(s.receipt(1), "", output{Verdict: wasRewound})
		},
		"a receipt is gone that a checkpoint holds": func(s *script) {
			s.appended("a", 1)
			s.set(0, 1)
			s.verify(s.receipt(1), "", output{Verdict: gone})
		},
		"a receipt is proven of what is truncated": func(s *script) {
			s.appended("a", 1)
			s.do(input{Kind: truncateLog, LSN: 2}, output{Info: s.info(2, 2)})
			s.verify(s.receipt(1), "", output{Verdict: proven, Committed: 5})
		},
		"a record is committed before the one in front of it": func(s *script) {
			s.append("a", output{First: 1, Count: 1, Committed: 5})
			s.append("b", output{First: 2, Count: 1, Committed: 4})
		},
		"a replay from a time leaves a record out": func(s *script) {
			s.timed()
			s.do(input{Kind: readRecords, Since: 5}, output{First: 2, Records: []string{"b"}, Complete: true})
		},
		"a replay from a time has one too many": func(s *script) {
			s.timed()
			s.do(input{Kind: readRecords, Since: 6}, output{First: 1, Records: []string{"a", "b"}, Complete: true})
		},
		"a replay until a time has one too many": func(s *script) {
			s.timed()
			s.do(input{Kind: readRecords, Until: 6}, output{First: 1, Records: []string{"a", "b"}})
		},
		"a replay until a time leaves a record out": func(s *script) {
			s.timed()
			s.do(input{Kind: readRecords, Until: 7}, output{First: 1, Records: []string{"a"}})
		},
		"a replay from a time begins behind what is kept": func(s *script) {
			s.timed()
			s.do(input{Kind: readRecords, Since: 5}, refusedWith(lsnTruncated))
		},
		"a checkpoint is begun beyond the end": func(s *script) {
			s.do(input{Kind: beginCheckpoint, Name: "c", LSN: 1}, output{})
		},
		"a checkpoint is completed that another one has taken the place of": func(s *script) {
			zero := uint64(0)
			s.do(input{Kind: beginCheckpoint, Name: "c", Version: &zero}, output{})
			s.set(0, 1)
			s.do(input{Kind: setCheckpoint, Name: "c", Version: &zero, Begun: true}, output{Checkpoints: []checkpoint{{Name: "c", Version: 2}}})
		},
		"a checkpoint is completed that another one was in the place of": func(s *script) {
			zero := uint64(0)
			s.do(input{Kind: beginCheckpoint, Name: "c", Version: &zero}, output{})
			s.set(0, 1)
			s.do(input{Kind: deleteCheckpoint, Name: "c"}, output{})
			s.do(input{Kind: setCheckpoint, Name: "c", Version: &zero, Begun: true}, output{Checkpoints: []checkpoint{{Name: "c", Version: 2}}})
		},
		"a deleted checkpoint's version comes again": func(s *script) {
			s.set(0, 1)
			s.do(input{Kind: deleteCheckpoint, Name: "c"}, output{})
			s.set(0, 1)
		},
		"truncation passes a cursor": func(s *script) {
			s.appended("a", 1)
			s.mark(input{Hold: true})
			s.do(input{Kind: truncateLog, LSN: 2}, output{Info: s.info(2, 2)})
		},
		"records are given up that a cursor holds": func(s *script) {
			s.appended("a", 1)
			s.mark(input{Cap: 3})
			s.do(input{Kind: readRecords, LSN: 1}, refusedWith(lsnTruncated))
		},
		"a cursor is evicted below its cap": func(s *script) {
			s.appended("a", 1)
			s.mark(input{Cap: 3})
			s.do(input{Kind: setCursor, Name: "m", LSN: 1, Cap: 3}, refusedWith(cursorLost))
		},
		"an evicted cursor holds again": func(s *script) {
			s.mark(input{Cap: 1})
			s.appended("a", 1)
			s.look(cursor{Cap: 1, Lost: true, Lag: 1})
			s.live(false)
			s.look(cursor{Cap: 1, Live: 3, Lag: 1})
		},
		"a cursor is said to hold what is gone": func(s *script) {
			s.mark(input{Cap: 1})
			s.appended("a", 1)
			s.do(input{Kind: truncateLog, LSN: 2}, output{Info: s.info(2, 2)})
			s.look(cursor{Cap: 1, Live: 3, Lag: 1})
		},
		"a cursor that was set is not": func(s *script) {
			s.mark(input{Cap: 3})
			s.live(false)
			s.do(input{Kind: getCursor, Name: "m"}, refusedWith(cursorNotFound))
		},
		"two make one cursor": func(s *script) {
			s.mark(input{Cap: 3, New: true})
			s.mark(input{Cap: 3, New: true})
		},
		"a rate refuses where there is none": func(s *script) {
			s.append("a", refusedWith(rateQuota))
		},
		"data loss is claimed": func(s *script) {
			s.do(input{Kind: readRecords, LSN: 1}, refusedWith("DATA_LOSS"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScript()
			play(s)
			s.mustBe(t, porcupine.Illegal)
		})
	}
}

// TestRightHistories feeds the checker what looks odd and is right.
func TestRightHistories(t *testing.T) {
	for name, play := range map[string]func(*script){
		"an append that was not answered is there": func(s *script) {
			s.append("a", output{Unknown: true})
			s.live(false)
			s.read(1, "a")
		},
		"or not": func(s *script) {
			s.append("a", output{Unknown: true})
			s.live(false)
			s.read(1)
			s.appended("b", 1)
		},
		"or comes late": func(s *script) {
			s.append("a", output{Unknown: true})
			s.read(1)
			s.read(1, "a")
		},
		"or is missed and never seen": func(s *script) {
			s.append("a", output{Unknown: true})
			s.append("b", output{Unknown: true})
			s.append("c", output{Unknown: true})
			s.appended("d", 3)
		},
		"a retry is told the first one's LSN": func(s *script) {
			s.do(input{Kind: openProducer, Producer: "p"}, output{})
			s.produced(1, "a", output{Unknown: true})
			s.live(false)
			s.appended("b", 2)
			s.produced(1, "a", output{First: 1, Count: 1, Repeated: true})
			s.produced(1, "c", refusedWith(sequenceReuse))
		},
		"a retry is the first one": func(s *script) {
			s.do(input{Kind: openProducer, Producer: "p"}, output{})
			s.produced(1, "a", output{Unknown: true})
			s.live(false)
			s.produced(1, "a", output{Unknown: true})
			s.produced(1, "a", output{First: 1, Count: 1})
		},
		"and is there once, by the second attempt": func(s *script) {
			s.do(input{Kind: openProducer, Producer: "p"}, output{})
			s.produced(1, "a", output{Unknown: true})
			s.live(false)
			s.read(1)
			s.produced(1, "a", output{Unknown: true})
			s.read(1, "a")
			s.produced(1, "a", output{First: 1, Count: 1, Repeated: true})
		},
		"what was not answered is truncated before anybody saw it": func(s *script) {
			s.append("a", output{Unknown: true})
			s.do(input{Kind: truncateLog, LSN: 2}, output{Info: s.info(2, 2)})
			s.live(false)
			s.do(input{Kind: getLog}, output{Info: s.info(2, 2)})
		},
		"or deleted": func(s *script) {
			s.append("a", output{Unknown: true})
			s.do(input{Kind: getLog}, output{Info: s.info(1, 2)})
			s.do(input{Kind: deleteLog, ID: "x"}, output{})
			i := s.info(1, 1)
			i.ID = "y"
			s.do(input{Kind: createLog}, output{Created: true, Info: i})
			s.live(false)
			s.do(input{Kind: getLog}, output{Info: i})
		},
		"or lost": func(s *script) {
			s.do(input{Kind: getLog}, output{Info: s.info(1, 1)})
			s.append("c", output{Unknown: true})
			s.append("a", output{Unknown: true})
			s.live(false)
			s.read(1, "a")
			s.do(input{Kind: getLog}, output{Info: s.info(1, 2)})
		},
		"sealed without an answer, or not": func(s *script) {
			s.do(input{Kind: sealLog}, output{Unknown: true})
			s.appended("a", 1)
			i := s.info(1, 2)
			i.Sealed = true
			s.append("b", refusedWith(sealed))
			s.do(input{Kind: getLog}, output{Info: i})
		},
		"a wait for what is behind a seal ends": func(s *script) {
			end := s.begin(input{Kind: seeDurable, LSN: 1})
			i := s.info(1, 1)
			i.Sealed = true
			s.do(input{Kind: sealLog}, output{Info: i})
			end(refusedWith(sealed))
		},
		"two appends at once are in either order": func(s *script) {
			one, two := s.begin(input{Kind: appendRecords, Records: []string{"a"}}), s.begin(input{Kind: appendRecords, Records: []string{"b"}})
			one(output{First: 2, Count: 1})
			two(output{First: 1, Count: 1})
		},
		"a segment below the checkpoints is given up": func(s *script) {
			s.appended("a", 1)
			s.read(1, "a")
			s.set(1, 1)
			s.do(input{Kind: readRecords, LSN: 1}, output{Reason: lsnTruncated, Figures: map[string]string{"first_lsn": "2"}})
			s.do(input{Kind: getLog}, output{Info: s.info(2, 2)})
		},
		"a writer is acquired by two, and by neither with an answer": func(s *script) {
			s.acquire("w", output{Unknown: true})
			s.acquire("v", output{Unknown: true})
			s.do(input{Kind: appendRecords, Epoch: 3, Records: []string{"a"}}, output{First: 1, Count: 1})
			s.append("b", output{Reason: fenced, Figures: map[string]string{"current_epoch": "3"}})
		},
		"asking again is answered with the same epoch": func(s *script) {
			s.acquire("w", output{Unknown: true})
			s.live(false)
			s.acquire("w", output{Repeated: true, Info: s.owned("w", 2)})
			s.do(input{Kind: releaseWriter, Epoch: 2}, output{Info: s.owned("", 3)})
			s.appended("a", 1)
		},
		"a stream loses its producer to one that was given up": func(s *script) {
			s.do(input{Kind: openProducer, Producer: "p"}, output{})
			s.do(input{Kind: appendRecords, Producer: "p", Stream: true, Rebound: true, Sequence: 1, Records: []string{"a"}}, refusedWith(superseded))
			s.do(input{Kind: appendRecords, Producer: "p", Stream: true, Rebound: true, Sequence: 1, Records: []string{"a"}}, output{First: 1, Count: 1})
		},
		"what was not written is written later, by another incarnation": func(s *script) {
			s.do(input{Kind: openProducer, Producer: "p"}, output{})
			s.produced(1, "a", output{Unknown: true})
			s.resolve(output{Outcome: "NOT_WRITTEN", Incarnation: 2, Info: s.info(1, 1)})
			s.produced(1, "a", refusedWith(superseded))
			s.do(input{Kind: appendRecords, Producer: "p", Incarnation: 2, Sequence: 1, Records: []string{"a"}}, output{First: 1, Count: 1})
		},
		"an LSN is given again behind a rewind, and what was there stays discarded": func(s *script) {
			s.do(input{Kind: openProducer, Producer: "p"}, output{})
			s.appended("a", 1)
			s.produced(1, "c", output{Unknown: true})
			s.rewind(1, 1)
			s.appended("b", 2)
			s.produced(1, "c", output{Reason: discarded, Figures: map[string]string{"first_lsn": "2", "count": "1"}})
			s.resolve(output{Outcome: "DISCARDED", First: 2, Count: 1, Epoch: 1, Last: 1, Incarnation: 2, Info: func() *info {
				i := s.info(1, 3)
				i.Epoch = 2
				return i
			}()})
			s.live(false)
			s.read(1, "a", "b")
		},
		"what states an epoch is nothing in the next one": func(s *script) {
			s.do(input{Kind: appendRecords, Epoch: 1, Records: []string{"a"}}, output{Unknown: true})
			s.do(input{Kind: setCheckpoint, Name: "c", Epoch: 1}, output{Unknown: true})
			s.acquire("w", output{Info: s.owned("w", 2)})
			s.do(input{Kind: getLog}, output{Info: s.owned("w", 2)})
			s.do(input{Kind: getCheckpoint, Name: "c"}, refusedWith(checkpointNotFound))
		},
		"a rewind is not answered, and done": func(s *script) {
			s.appended("a", 1)
			s.do(input{Kind: rewindLog, Epoch: 1, Request: "r"}, output{Unknown: true})
			s.live(false)
			s.do(input{Kind: rewindLog, Epoch: 1, Request: "r"}, output{Repeated: true, Info: s.rewound(0, 2)})
			s.read(1)
		},
		"or is not": func(s *script) {
			s.appended("a", 1)
			s.do(input{Kind: rewindLog, Epoch: 1, Name: "w", Request: "r"}, output{Unknown: true})
			s.live(false)
			s.do(input{Kind: getLog}, output{Info: s.info(1, 2)})
			s.acquire("v", output{Info: func() *info {
				i := s.info(1, 2)
				i.Epoch, i.Holder = 2, "v"
				return i
			}()})
		},
		"what was not answered is discarded before anybody saw it": func(s *script) {
			s.append("a", output{Unknown: true})
			s.append("c", output{Unknown: true})
			s.rewind(0, 1)
			s.appended("a2", 1)
		},
		"a cursor that was taken back stands again when it is reset": func(s *script) {
			s.mark(input{Cap: 9})
			s.appended("a", 1)
			s.do(input{Kind: setCursor, Name: "m", LSN: 1, Cap: 9}, output{Cursors: []cursor{{Name: "m", LSN: 1, Cap: 9}}})
			s.rewind(0, 1)
			s.look(cursor{Cap: 9, Rewound: true, Epoch: 2, Was: 1})
			s.do(input{Kind: setCursor, Name: "m", Cap: 9}, output{Reason: rewound, Figures: map[string]string{"cursor": "m", "epoch": "2", "kept_lsn": "0", "lsn": "1", "next_lsn": "1"}})
			s.mark(input{Cap: 9, Reset: true})
			s.look(cursor{Cap: 9})
		},
		"a rewind is told of, to whoever had asked before": func(s *script) {
			s.appended("a", 1)
			read := s.begin(input{Kind: readRecords, LSN: 1})
			add := s.begin(input{Kind: appendRecords, Records: []string{"c"}})
			wait := s.begin(input{Kind: seeDurable, LSN: 2})
			s.rewind(0, 1)
			read(s.told(2, 0, 1, 1))
			add(s.told(2, 0, 1, 1))
			wait(s.told(2, 0, 2, 1))
			s.do(input{Kind: seeDurable, LSN: 1, Epoch: 1}, s.told(2, 0, 1, 1))
		},
		"what was written is lost with the machine": func(s *script) {
			s.do(input{Kind: appendRecords, Stream: true, Firm: true, Records: []string{"a"}}, output{Unknown: true, Written: true})
			s.live(false)
			s.read(1)
		},
		"and outlives the service": func(s *script) {
			s.do(input{Kind: appendRecords, Stream: true, Firm: true, Records: []string{"a"}}, output{Unknown: true, Written: true})
			s.live(true)
			s.read(1, "a")
		},
		"or was refused, which nobody heard": func(s *script) {
			s.acquire("w", output{Info: s.owned("w", 2)})
			s.do(input{Kind: appendRecords, Stream: true, Firm: true, Records: []string{"a"}}, output{Unknown: true, Written: true})
			s.live(true)
			s.read(1)
		},
		"receipts are verified in the order of what becomes of them": func(s *script) {
			s.timed()
			r := s.receipt(1)
			s.verify(r, "", output{Verdict: proven, Committed: 5})
			r.Committed++
			s.verify(r, "commit_time", output{Verdict: contradicted, Field: "commit_time", Committed: 5})
			s.do(input{Kind: truncateLog, LSN: 2}, output{Info: s.info(2, 3)})
			s.verify(s.receipt(1), "", output{Verdict: gone})
			s.rewind2(1, 1)
			s.verify(s.receipt(1), "", output{Verdict: gone})
			s.do(input{Kind: deleteLog, ID: "x"}, output{})
			s.verify(s.receipt(1), "", output{Verdict: gone})
		},
		"replays from and until times": func(s *script) {
			s.timed()
			for since, want := range map[int64][]string{5: {"a", "b"}, 6: {"b"}, 7: {"b"}} {
				s.do(input{Kind: readRecords, Since: since}, output{First: 3 - uint64(len(want)), Records: want, Complete: true})
			}
			s.do(input{Kind: readRecords, Until: 6}, output{First: 1, Records: []string{"a"}})
			s.do(input{Kind: readRecords, Since: 5, Until: 6}, output{First: 1, Records: []string{"a"}})
		},
		"a cursor was evicted before a rewind took what it was over its cap by": func(s *script) {
			s.mark(input{Cap: 1})
			s.appended("a", 1)
			s.rewind(0, 1)
			s.look(cursor{Cap: 1, Lost: true})
		},
		"a cursor over its cap is evicted when it is, and truncation passes it": func(s *script) {
			s.mark(input{Cap: 1})
			s.appended("a", 1)
			s.do(input{Kind: truncateLog, LSN: 2}, refusedWith(held))
			s.look(cursor{Cap: 1, Live: 3, Lag: 1})
			s.do(input{Kind: truncateLog, LSN: 2}, output{Info: s.info(2, 2)})
			s.look(cursor{Cap: 1, Lost: true, Lag: 1})
			s.do(input{Kind: setCursor, Name: "m", LSN: 1, Cap: 1}, refusedWith(cursorLost))
			s.do(input{Kind: setCursor, Name: "m", LSN: 1, Cap: 1, Reset: true}, output{Cursors: []cursor{{Name: "m", LSN: 1, Cap: 1}}})
		},
		"a checkpoint is set by two, and by neither with an answer": func(s *script) {
			s.do(input{Kind: setCheckpoint, Name: "c"}, output{Unknown: true})
			s.do(input{Kind: setCheckpoint, Name: "c"}, output{Unknown: true})
			s.set(0, 3)
		},
		"a checkpoint that was not set was not set": func(s *script) {
			s.set(0, 1)
			s.do(input{Kind: setCheckpoint, Name: "c", State: "s"}, output{Unknown: true})
			s.set(0, 2)
			s.live(false)
			s.get(0, 2)
		},
		"and one that was is deleted before anybody saw it": func(s *script) {
			s.set(0, 1)
			s.do(input{Kind: setCheckpoint, Name: "c", State: "s"}, output{Unknown: true})
			two := uint64(2)
			s.do(input{Kind: deleteCheckpoint, Name: "c", Version: &two}, output{})
			s.set(0, 3)
			s.live(false)
			s.get(0, 3)
		},
		"a checkpoint goes on behind the greatest version that was deleted": func(s *script) {
			s.set(0, 1)
			s.set(0, 2)
			s.do(input{Kind: deleteCheckpoint, Name: "c"}, output{})
			s.do(input{Kind: setCheckpoint, Name: "d"}, output{Checkpoints: []checkpoint{{Name: "d", Version: 3}}})
			s.set(0, 3)
			s.set(0, 4)
		},
		"a checkpoint that was deleted is not completed again": func(s *script) {
			zero := uint64(0)
			s.do(input{Kind: beginCheckpoint, Name: "c", Version: &zero}, output{})
			s.set(0, 1)
			s.do(input{Kind: deleteCheckpoint, Name: "c"}, output{})
			s.do(input{Kind: setCheckpoint, Name: "c", Version: &zero, Begun: true}, refusedWith(checkpointConflict))
		},
		"a log is created and deleted without an answer": func(s *script) {
			s.do(input{Kind: deleteLog, ID: "x"}, output{Unknown: true})
			s.do(input{Kind: createLog}, output{Unknown: true})
			i := s.info(1, 1)
			i.ID = "y"
			s.do(input{Kind: getLog}, output{Info: i})
			s.do(input{Kind: deleteLog, ID: "x"}, output{})
			s.do(input{Kind: deleteLog}, output{})
			s.do(input{Kind: deleteLog, ID: "x"}, output{})
			s.do(input{Kind: deleteLog}, refusedWith(logNotFound))
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScript()
			play(s)
			s.mustBe(t, porcupine.Ok)
		})
	}
}
