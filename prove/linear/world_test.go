package linear

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	sdk "github.com/walsvc/walsvc/client"
)

// limit bounds every wait; it is only reached when something is broken.
const limit = 30 * time.Second

// The logs. Every client works on one of them.
const (
	steady  = "steady"  // stays
	bounded = "bounded" // stays, and has a quota
	passing = "passing" // is deleted and created again
	owned   = "owned"   // stays, and has a rate, writers, cursors, and producers whose batches are resolved
)

var logs = []string{steady, bounded, passing, owned}

// optionsOf are the options that a log is created with.
func optionsOf(log string) options {
	o := options{MaxRecord: maxRecord}
	switch log {
	case bounded:
		o.Quota = 24 << 10
	case owned:
		o.Rate = 3 << 10
	}
	return o
}

// maxRecord bounds a record of every log, in bytes.
const maxRecord = 1 << 10

// A world is clients, their history, and what stands between them and the
// service.
type world struct {
	t       *testing.T
	dir     string
	history *history
	proxy   *proxy
	timeout time.Duration // of the clients' calls that look
	rng     *rand.Rand
	clients int

	ctx     context.Context // ends when the clients are to stop at once
	working sync.WaitGroup
	failed  chan error // something that no order of operations explains

	mu     sync.Mutex
	open   chan struct{}      // closed while clients are let through
	calls  context.Context    // of the service's life: for what does not outlive it
	expire context.CancelFunc // ends calls
	busy   int                // clients with something that does not outlive it
	idle   *sync.Cond         // busy is 0
	ended  bool
	views  map[string]*view

	staged chan struct{} // has one if somebody was told since that something is written
}

// A view is what is roughly known of a log, for asking what makes sense. Nothing
// is checked against it.
type view struct {
	mu          sync.Mutex
	id          string
	first, next uint64
	epoch       uint64
	producer    string // one of somebody's, and its last sequence
	sequence    uint64
	checkpoints map[string]checkpoint
	cursors     map[string]cursor
	receipts    []receipt
	recent      []int64 // commit times
}

// newWorld returns a world without clients, and without a service behind its proxy.
func newWorld(t *testing.T, rng *rand.Rand, timeout time.Duration) *world {
	t.Helper()
	dir, err := os.MkdirTemp("", "wl-") // short enough for sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	w := &world{
		t: t, dir: dir, history: &history{}, timeout: timeout, rng: rng,
		ctx: t.Context(), failed: make(chan error, 100), open: make(chan struct{}), views: map[string]*view{}, staged: make(chan struct{}, 1),
	}
	w.idle = sync.NewCond(&w.mu)
	for _, log := range logs {
		w.views[log] = &view{first: 1, next: 1, checkpoints: map[string]checkpoint{}, cursors: map[string]cursor{}}
	}
	if w.proxy, err = newProxy(filepath.Join(dir, "p"), rand.New(rand.NewPCG(rng.Uint64(), 0))); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.proxy.close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// live begins a life of the service, with all that was written in the one before, or
// without some of it that was not synced.
func (w *world) live(withWritten bool) {
	w.history.live(withWritten)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls, w.expire = context.WithCancel(w.ctx)
}

// admit lets clients through to a service, when it has been looked at: while
// there is nobody else, so that whatever became of the calls of the last life
// shows now, or never did.
func (w *world) admit(socket string) {
	w.t.Helper()
	w.survey(socket)
	w.proxy.aim(socket)
	w.mu.Lock()
	defer w.mu.Unlock()
	close(w.open)
}

// hold ends what clients wait for, and keeps them from asking for anything more.
// When it returns they hear nothing any more, and all operations have ended but
// for the appends of SDKs and their checkpoints, which go on in the next life.
func (w *world) hold() {
	w.mu.Lock()
	w.open = make(chan struct{})
	w.expire()
	w.mu.Unlock()
	w.proxy.cut()
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.busy > 0 {
		w.idle.Wait()
	}
}

// enter waits until clients are let through. It returns false when they are to
// stop; else leave is to follow.
func (w *world) enter() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for {
		open := w.open
		if w.ended {
			return false
		}
		select {
		case <-open:
			w.busy++
			return true
		default:
		}
		w.mu.Unlock()
		select {
		case <-open:
		case <-w.ctx.Done():
		}
		w.mu.Lock()
		if w.ctx.Err() != nil {
			return false
		}
	}
}

// goesOn reports whether the clients are not to stop yet.
func (w *world) goesOn() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return !w.ended && w.ctx.Err() == nil
}

func (w *world) leave() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.busy--
	w.idle.Broadcast()
}

// stage notes that somebody was told that something is written.
func (w *world) stage() {
	select {
	case w.staged <- struct{}{}:
	default: // and nobody has asked since
	}
}

// unstage forgets what anybody was told so far.
func (w *world) unstage() {
	select {
	case <-w.staged:
	default:
	}
}

// awaitWritten waits until somebody is told that something is written, or was since
// unstage, or for as long as it takes until it is likely that nothing is.
func (w *world) awaitWritten(atMost time.Duration) bool {
	select {
	case <-w.staged:
		return true
	case <-time.After(atMost):
		return false
	}
}

// outlive does something that does not end with the service's life.
func (w *world) outlive(do func()) {
	w.leave()
	do()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.busy++
}

// giveUp ends all calls as if nobody waited for them any more. What they ask for may
// be done yet.
func (w *world) giveUp() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.expire()
	w.calls, w.expire = context.WithCancel(w.ctx)
}

// bound returns the context of a call that looks, which ends with the service's life
// at the latest.
func (c *client) bound() (context.Context, context.CancelFunc) { return c.within(c.timeout) }

// boundChange is the same for one that changes something. It ends when the service's
// life does, or by giveUp, and not because the machine is slow: what was done is hard
// to say of a history in which many outcomes are unknown.
func (c *client) boundChange() (context.Context, context.CancelFunc) { return c.within(limit) }

func (c *client) within(d time.Duration) (context.Context, context.CancelFunc) {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	return context.WithTimeout(c.w.calls, d)
}

// end has the clients stop and waits for them. They must be let through.
func (w *world) end() {
	w.mu.Lock()
	w.ended = true
	w.mu.Unlock()
	w.working.Wait()
}

// makeUp has done while the clients go on what chance may leave out: the history has to
// show it. They seal only the log that passes, and seldom find it: one of forty runs
// of TestDisk ended without. One of a hundred had no retirement refused.
func (w *world) makeUp() {
	w.t.Helper()
	late := w.newRaw("late", passing, w.connect())
	w.insist("log was sealed", func() bool {
		late.create()
		out := late.seal()
		return out.succeeded()
	})
	w.insist("retirement was refused", func() bool {
		late.create()
		out := late.retireAs(ulid.Make().String())
		return !out.succeeded() && !out.Unknown
	})
}

// insist has one thing done until it is.
func (w *world) insist(what string, ask func() bool) {
	w.t.Helper()
	for range 1000 {
		if !w.enter() {
			w.t.Fatal("the test is over")
		}
		done := ask()
		w.leave()
		if done {
			return
		}
	}
	w.t.Fatalf("no %s in a thousand attempts", what)
}

// await waits for n more operations.
func (w *world) await(n int) {
	w.t.Helper()
	select {
	case <-w.history.after(n):
	case err := <-w.failed:
		w.t.Fatal(err)
	case <-time.After(limit):
		w.t.Fatalf("there were no %d more operations in %v", n, limit)
	}
}

// linger waits for n more operations, or for as long as it takes until it is
// likely that everybody waits.
func (w *world) linger(n int, atMost time.Duration) {
	select {
	case <-w.history.after(n):
	case <-time.After(atMost):
	}
}

// fail ends the test with something that is wrong in itself.
func (w *world) fail(format string, args ...any) {
	select {
	case w.failed <- fmt.Errorf(format, args...):
	default: // enough
	}
}

// judge checks the history, when everybody has stopped.
func (w *world) judge() *census {
	w.t.Helper()
	select {
	case err := <-w.failed:
		w.t.Error(err)
	default:
	}
	began := time.Now()
	if err := w.history.check(); err != nil {
		w.t.Error(err)
	}
	c := w.history.census()
	w.t.Logf("%v\nchecked in %.1f s; %d connections broke in a message", &c, time.Since(began).Seconds(), w.proxy.broken)
	return &c
}

// client is what all kinds of clients have.
type client struct {
	w        *world
	number   int
	name     string
	log      string
	view     *view
	rng      *rand.Rand
	timeout  time.Duration
	made     int // records
	poisoned int // the life in which it heard POISONED, so that it asks for no more changes; -1 for none
}

// newClient names a client of a log.
func (w *world) newClient(kind, log string) *client {
	c := &client{
		w: w, number: w.clients, name: fmt.Sprintf("%s%d", kind, w.clients), log: log, view: w.views[log],
		rng: rand.New(rand.NewPCG(w.rng.Uint64(), 0)), timeout: w.timeout, poisoned: -1,
	}
	w.clients++
	return c
}

// run has the client do something again and again.
func (c *client) run(work func()) {
	c.w.working.Go(func() {
		for c.w.enter() {
			work()
			c.w.leave()
		}
	})
}

// changing reports whether the client may ask for changes.
func (c *client) changing() bool { return c.poisoned < 0 || c.poisoned != c.w.history.life() }

// begin begins an operation.
func (c *client) begin(in input) (end func(output)) {
	_, end = c.beginOpen(in)
	return end
}

// beginOpen begins an operation of which the client may find out what it was
// until it ends.
func (c *client) beginOpen(in input) (asked *input, end func(output)) {
	in.Log, in.By = c.log, c.name
	o := c.w.history.begin(c.number, in)
	return &o.In, func(out output) {
		switch {
		case elsewhere[out.Reason]:
			return
		case unsettled[out.Reason]:
			if out.Reason != "OUTCOME_UNKNOWN" || changes[in.Kind] {
				c.poisoned = c.w.history.life()
			}
			out = output{Unknown: true}
		}
		c.learn(&o.In, &out)
		c.w.history.end(o, out)
	}
}

// elsewhere are refusals for reasons that are not the log's, and which change
// nothing: the model has nothing to say to them.
var elsewhere = map[string]bool{"DRAINING": true, "FULL": true}

// unsettled are reasons that leave the outcome unknown.
var unsettled = map[string]bool{"POISONED": true, "OUTCOME_UNKNOWN": true, "CLOSED": true}

// learn takes what an answer tells about the log.
func (c *client) learn(in *input, out *output) {
	v := c.view
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case out.Info != nil:
		v.id, v.first, v.next, v.epoch = out.Info.ID, out.Info.First, out.Info.Next, out.Info.Epoch
	case in.Kind == deleteLog && out.succeeded() && (in.ID == "" || in.ID == v.id):
		v.id, v.first, v.next = "", 1, 1
		clear(v.checkpoints)
	case in.Kind == appendRecords && out.succeeded():
		v.next = max(v.next, out.First+out.Count)
		v.producer, v.sequence = in.Producer, in.Sequence
		if r, ok := receiptOf(in, out); ok {
			v.keep(r, c.rng)
		}
		if out.Committed != 0 {
			v.recent = append(v.recent[max(0, len(v.recent)-11):], out.Committed)
		}
	}
	for _, cp := range out.Checkpoints {
		v.checkpoints[cp.Name] = cp
	}
	for _, cur := range out.Cursors {
		v.cursors[cur.Name] = cur
	}
}

// look returns what is known of the log.
func (c *client) look() (id string, first, next uint64) {
	c.view.mu.Lock()
	defer c.view.mu.Unlock()
	return c.view.id, c.view.first, max(c.view.next, c.view.first)
}

// batch makes up to n records that nobody made before.
func (c *client) batch(n int) []string {
	data := make([]string, 1+c.rng.IntN(n))
	for i := range data {
		c.made++
		data[i] = fmt.Sprintf("%s.%d %s", c.name, c.made, strings.Repeat(string(rune('a'+c.made%26)), c.rng.IntN(200)))
	}
	return data
}

// likely returns a value near one: at most by apart, most often the value.
func (c *client) likely(value, by uint64) uint64 {
	if c.rng.IntN(4) > 0 {
		return value
	}
	return value + c.rng.Uint64N(2*by+1) - min(by, value)
}

// names are the checkpoints' names.
var names = []string{"engine", "backup"}

// condition returns a checkpoint's name, what is known of it, and the version
// that it is to have, if any.
func (c *client) condition() (was checkpoint, expected *uint64) {
	c.view.mu.Lock()
	defer c.view.mu.Unlock()
	was = c.view.checkpoints[names[c.rng.IntN(len(names))]]
	was.Name = cmp.Or(was.Name, names[0])
	if c.rng.IntN(2) == 0 {
		version := c.likely(was.Version, 1)
		expected = &version
	}
	return was, expected
}

// populate creates the logs that stay, and lets clients of every kind loose. The
// service must be there.
func (w *world) populate() {
	w.t.Helper()
	for _, log := range logs {
		calls, streams := w.connect(), w.connect()
		if log != passing {
			for c := w.newRaw("founder", log, calls); ; {
				if id, _, _ := c.look(); id != "" {
					break
				}
				if out := c.createWith(optionsOf(log)); out.Reason != "" {
					w.t.Fatalf("create log %s: %s", log, out.Reason)
				}
			}
		}
		if log == passing { // as long as there is none, everything is refused
			c := w.newRaw("early", log, calls)
			c.get()
			c.listCursors()
			for _, ask := range []func(){c.listCheckpoints, c.getCheckpoint, c.deleteCheckpoint, c.setCheckpoint, c.truncate, c.delete, c.read, c.append, c.burst, c.burstWritten, c.acquire, c.release, c.resolve, c.retire, c.setCursor, c.getCursor, c.deleteCursor} {
				ask()
			}
			c.ready()
		}
		for range 2 {
			c := w.newRaw("unary", log, calls)
			c.run(c.work)
		}
		c := w.newRaw("stream", log, streams)
		c.run(c.burst)
		if log == passing {
			continue
		}
		if log == owned {
			for range 3 {
				c := w.newRaw("owner", log, calls)
				c.aide = w.newRaw("aide", log, streams)
				c.run(c.own)
			}
		}
		f := w.newRaw("follower", log, streams)
		f.run(f.follow)
		if log == owned {
			continue
		}
		logs := w.openSDK(sdk.Options{})
		w.t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), limit)
			defer cancel()
			if err := logs.Close(ctx); err != nil {
				w.t.Error(err)
			}
		})
		for range 2 {
			c := w.newSDK(log, logs)
			c.run(c.work)
		}
	}
}

// survey looks at all that there is, past the proxy.
func (w *world) survey(socket string) {
	w.t.Helper()
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		w.t.Fatal(err)
	}
	for _, log := range logs {
		c := w.newRaw("survey", log, conn)
		c.timeout = limit
		c.get()
		c.listCheckpoints()
		for _, name := range names {
			c.getCheckpointOf(name)
		}
		c.listCursors()
		for _, producer := range w.history.doubtful(log) {
			c.open(producer)
		}
		for _, r := range c.view.kept() {
			c.verifyAs(r, "")
		}
		c.readAll()
	}
	if err := conn.Close(); err != nil {
		w.t.Error(err)
	}
}
