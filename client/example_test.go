package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"strconv"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/client"
)

// example serves a volume for one example, opens a client and creates the log
// "orders".
func example() (ctx context.Context, c *client.Client, end func()) {
	ctx, _, c, end = exampleAt()
	return ctx, c, end
}

// exampleAt is example with the address of the service.
func exampleAt() (ctx context.Context, target string, c *client.Client, end func()) {
	ctx = context.Background()
	dir, err := os.MkdirTemp("", "walsvc")
	if err != nil {
		log.Fatal(err)
	}
	s, err := startService(dir)
	if err != nil {
		log.Fatal(err)
	}
	c, err = client.Open(ctx, s.socket(), client.Options{})
	if err != nil {
		log.Fatal(err)
	}
	if _, _, err := c.CreateLog(ctx, "orders", client.LogOptions{}); err != nil {
		log.Fatal(err)
	}
	return ctx, s.socket(), c, func() {
		if err := errors.Join(c.Close(ctx), s.stop(), os.RemoveAll(dir)); err != nil {
			log.Fatal(err)
		}
	}
}

func ExampleOpen() {
	c, err := client.Open(context.Background(), "/run/walsvc/walsvc.sock", client.Options{})
	if errors.Is(err, client.ErrUnavailable) {
		fmt.Println("nobody there")
		return
	}
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close(context.Background())
	// Output: nobody there
}

func ExampleLog_Append() {
	ctx, c, end := example()
	defer end()

	lsn, err := c.Log("orders").Append(ctx, []byte("a record"))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("durable at LSN", lsn)
	// Output: durable at LSN 1
}

func ExampleLog_AppendAsync() {
	ctx, c, end := example()
	defer end()

	orders := c.Log("orders")
	var last *client.Future
	for i := range 1000 {
		last = orders.AppendAsync(ctx, fmt.Appendf(nil, "order %d", i))
	}
	receipt, err := last.Wait(ctx) // records become durable in order
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("durable up to LSN", receipt.LSN)
	// Output: durable up to LSN 1000
}

func ExampleLog_AppendBatch() {
	ctx, c, end := example()
	defer end()

	orders := c.Log("orders")
	transfer := [][]byte{[]byte("take 5 from a"), []byte("give 5 to b")}
	receipt, err := orders.AppendBatch(ctx, transfer, client.ExpectLSN(1))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("both durable, from LSN", receipt.LSN)

	_, err = orders.AppendBatch(ctx, transfer, client.ExpectLSN(1))
	var refused *client.Error
	if errors.Is(err, client.ErrLSNMismatch) && errors.As(err, &refused) {
		fmt.Println("refused: the next LSN is", refused.Metadata["next_lsn"])
	}
	// Output:
	// both durable, from LSN 1
	// refused: the next LSN is 3
}

func ExampleLog_Replay() {
	ctx, c, end := example()
	defer end()

	orders := c.Log("orders")
	for _, record := range []string{"one", "two", "three"} {
		if _, err := orders.Append(ctx, []byte(record)); err != nil {
			log.Fatal(err)
		}
	}
	// The engine's own storage holds everything up to LSN 1.
	if _, err := orders.SetCheckpoint(ctx, "engine", 1, []byte("state")); err != nil {
		log.Fatal(err)
	}
	for record, err := range orders.Replay(ctx, client.ReplayOptions{Checkpoint: "engine"}) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%d %s\n", record.LSN, record.Data)
	}
	// Output:
	// 2 two
	// 3 three
}

// A storage engine's life: it appends before it applies, makes its pages durable
// between the two phases of a checkpoint, and recovers from both.
func ExampleLog_Recover() {
	ctx, c, end := example()
	defer end()
	orders := c.Log("orders")

	pages := 0 // the engine's own storage
	for _, amount := range []int{5, 7, 9} {
		if _, err := orders.Append(ctx, []byte(strconv.Itoa(amount))); err != nil {
			log.Fatal(err) // not applied
		}
		pages += amount
	}
	checkpoint, err := orders.BeginCheckpoint(ctx, "engine", 3)
	if err != nil {
		log.Fatal(err)
	}
	// ... the engine writes its pages, and syncs them ...
	if _, err := checkpoint.Complete(ctx, []byte(strconv.Itoa(pages))); err != nil {
		log.Fatal(err)
	}
	if _, err := orders.Append(ctx, []byte("4")); err != nil {
		log.Fatal(err)
	}

	// After a crash.
	from, behind, err := orders.Recover(ctx, "engine")
	if err != nil {
		log.Fatal(err)
	}
	if pages, err = strconv.Atoi(string(from.State)); err != nil {
		log.Fatal(err)
	}
	for record, err := range behind {
		if err != nil {
			log.Fatal(err)
		}
		amount, err := strconv.Atoi(string(record.Data))
		if err != nil {
			log.Fatal(err)
		}
		pages += amount
	}
	fmt.Println("pages at LSN", from.LSN, "and what came after make", pages)
	// Output: pages at LSN 3 and what came after make 25
}

// An engine that keeps the claim of its last receipt, wherever it keeps its own
// state, cannot go on in a log that has lost what it was acknowledged.
func ExampleLog_Resume() {
	ctx, target, c, end := exampleAt()
	defer end()

	receipt, err := c.Log("orders").AppendBatch(ctx, [][]byte{[]byte("one"), []byte("two")})
	if err != nil {
		log.Fatal(err)
	}
	kept := receipt.Claim().String()

	// After a restart of the engine: another process, another Client.
	again, err := client.Open(ctx, target, client.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer again.Close(ctx)
	claim, err := client.ParseClaim(kept)
	if err != nil {
		log.Fatal(err)
	}
	orders := again.Log("orders")
	if err := orders.Resume(claim); err != nil {
		log.Fatal(err)
	}
	lsn, err := orders.Append(ctx, []byte("three"))
	if errors.Is(err, client.ErrDataLoss) {
		log.Fatal("the log is not the one that this engine wrote: ", err)
	}
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("the log is whole, and goes on at LSN", lsn)
	// Output: the log is whole, and goes on at LSN 3
}

func ExampleLog_SetCursor() {
	ctx, c, end := example()
	defer end()

	orders := c.Log("orders")
	if _, err := orders.AppendBatch(ctx, [][]byte{[]byte("apples"), []byte("pears")}); err != nil {
		log.Fatal(err)
	}
	// Whoever mails the orders starts where it stopped, whatever becomes of it: the
	// log keeps for it what it has not read, up to a cap.
	if _, err := orders.SetCursor(ctx, "mailer", 0, client.CursorOptions{Create: true, Cap: 64 << 20}); err != nil && !errors.Is(err, client.ErrCursorConflict) {
		log.Fatal(err)
	}
	for r, err := range orders.Replay(ctx, client.ReplayOptions{Cursor: "mailer"}) {
		if err != nil {
			log.Fatal(err) // client.ErrCursorLost: mail what is missing from elsewhere, then set it with Reset
		}
		fmt.Printf("mailed %s\n", r.Data)
		if _, err := orders.SetCursor(context.WithoutCancel(ctx), "mailer", r.LSN, client.CursorOptions{}); err != nil {
			log.Fatal(err)
		}
	}
	cursor, err := orders.Cursor(ctx, "mailer")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s at LSN %d, %d behind\n", cursor.State, cursor.LSN, cursor.Records)
	// Output:
	// mailed apples
	// mailed pears
	// reserved at LSN 2, 0 behind
}

// A buffer pool lets others use a page as soon as its change is written, and writes it
// to disk when the change is durable.
func ExampleFuture_Written() {
	ctx, target, _, end := exampleAt()
	defer end()
	c, err := client.Open(ctx, target, client.Options{WrittenAcks: true})
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = c.Close(ctx) }()

	change := c.Log("orders").AppendAsync(ctx, []byte("set a = 5"))
	<-change.Written()
	fmt.Println("the page may be used")
	receipt, err := change.Wait(ctx)
	if err != nil {
		log.Fatal(err) // the page is thrown away, and all that was built on it
	}
	fmt.Println("the page may be flushed: LSN", receipt.LSN, "is durable")
	// Output:
	// the page may be used
	// the page may be flushed: LSN 1 is durable
}

// Whoever takes over acquires the writer first. The old primary is alive, and finds
// out when it appends, or from a watch while it does not.
func ExampleLog_AcquireWriter() {
	ctx, target, c, end := exampleAt()
	defer end()

	old := c.Log("orders")
	if _, err := old.AcquireWriter(ctx, "node-a"); err != nil {
		log.Fatal(err)
	}
	if _, err := old.Append(ctx, []byte("node-a's")); err != nil {
		log.Fatal(err)
	}

	// Another process.
	other, err := client.Open(ctx, target, client.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer other.Close(ctx)
	orders := other.Log("orders")
	writer, err := orders.AcquireWriter(ctx, "node-b")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("node-b goes on at LSN", writer.Log.Next)

	for _, err := range old.WatchDurable(ctx, 1) {
		fmt.Println("node-a is told:", errors.Is(err, client.ErrFenced))
	}
	if _, err := old.Append(ctx, []byte("late")); errors.Is(err, client.ErrFenced) {
		fmt.Println("and lands nothing")
	}
	// Output:
	// node-b goes on at LSN 2
	// node-a is told: true
	// and lands nothing
}

// The log's writer knows which LSNs its records get. It changes its pages at once,
// and lets those go to disk whose LSN is durable.
func ExampleExpectLSN() {
	ctx, c, end := example()
	defer end()

	orders := c.Log("orders")
	writer, err := orders.AcquireWriter(ctx, "node-a")
	if err != nil {
		log.Fatal(err)
	}
	next := writer.Log.Next
	var page struct {
		total int
		lsn   client.LSN
	}
	for _, amount := range []int{5, 7, 9} {
		change := orders.AppendAsync(ctx, []byte(strconv.Itoa(amount)), client.ExpectLSN(next))
		if err := change.NotTaken(); err != nil {
			log.Fatal(err) // and the page stays as it is
		}
		page.total += amount
		page.lsn = next
		next++
	}
	if _, err := orders.WaitDurable(ctx, page.lsn); err != nil {
		log.Fatal(err)
	}
	fmt.Println("write the page:", page.total, "at LSN", page.lsn)
	// Output: write the page: 21 at LSN 3
}

// A buffer pool holds pages back until the log is as far.
func ExampleLog_WatchDurable() {
	ctx, c, end := example()
	defer end()

	orders := c.Log("orders")
	dirty := map[client.LSN]string{2: "page 7", 3: "page 1"}
	for range 3 {
		orders.AppendAsync(ctx, []byte("a change"))
	}
	for durable, err := range orders.WatchDurable(ctx, 0) {
		if err != nil {
			log.Fatal(err) // client.ErrFenced: these pages are nobody's any more
		}
		for lsn := range dirty {
			if lsn <= durable {
				delete(dirty, lsn) // written
			}
		}
		if len(dirty) == 0 {
			break
		}
	}
	fmt.Println(len(dirty), "pages are dirty")
	// Output: 0 pages are dirty
}

// Of a checkpoint two phases: between them the engine makes its pages durable.
func ExampleLog_BeginCheckpoint() {
	ctx, c, end := example()
	defer end()

	orders := c.Log("orders")
	lsn, err := orders.Append(ctx, []byte("a change"))
	if err != nil {
		log.Fatal(err)
	}
	checkpoint, err := orders.BeginCheckpoint(ctx, "engine", lsn)
	if err != nil {
		log.Fatal(err)
	}
	// ... the engine writes its pages, and syncs them ...
	if _, err := checkpoint.Complete(ctx, []byte("pages-0001")); err != nil {
		log.Fatal(err) // the checkpoint before holds
	}
	// Somebody who began before that does not undo it.
	_, err = orders.SetCheckpoint(ctx, "engine", lsn, []byte("pages-0000"), client.ExpectVersion(0))
	fmt.Println("set by somebody who saw none:", errors.Is(err, client.ErrCheckpointConflict))
	// Output: set by somebody who saw none: true
}

// A new primary keeps what its group agreed on, and discards the rest.
func ExampleLog_Rewind() {
	ctx, c, end := example()
	defer end()

	orders := c.Log("orders")
	for _, change := range []string{"set a = 1", "set a = 2", "nobody agreed"} {
		if _, err := orders.Append(ctx, []byte(change)); err != nil {
			log.Fatal(err)
		}
	}
	info, err := orders.Info(ctx)
	if err != nil {
		log.Fatal(err)
	}
	rewound, err := orders.Rewind(ctx, client.Rewind{After: 2, Epoch: info.Epoch, Next: info.Next, Holder: "db-2"})
	if err != nil {
		log.Fatal(err)
	}
	lsn, err := orders.Append(ctx, []byte("set a = 3"))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%d record is gone; in epoch %d, LSN %d is another one\n", rewound.Records, rewound.Log.Epoch, lsn)
	// Output: 1 record is gone; in epoch 2, LSN 3 is another one
}

// An engine that died with appends under way asks what became of them. What it has
// kept of the error is enough: the producer, the sequence, and the epoch.
func ExampleLog_Resolve() {
	ctx, target, c, end := exampleAt()
	defer end()

	producer := ulid.Make()
	first, err := client.Open(ctx, target, client.Options{Producer: producer})
	if err != nil {
		log.Fatal(err)
	}
	if _, err := first.Log("orders").Append(ctx, []byte("set a = 5")); err != nil {
		log.Fatal(err)
	}
	if err := first.Close(ctx); err != nil {
		log.Fatal(err)
	}

	orders := c.Log("orders")
	for sequence := range uint64(2) {
		outcome, err := orders.Resolve(ctx, &client.UnknownError{Producer: producer, Sequence: sequence + 1})
		if err != nil {
			log.Fatal(err)
		}
		switch outcome.Outcome {
		case client.Committed:
			fmt.Println("it is at LSN", outcome.Receipt.LSN)
		case client.NotWritten, client.Fenced:
			fmt.Println("it is nowhere, and never will be: append it again")
		}
	}
	// Output:
	// it is at LSN 1
	// it is nowhere, and never will be: append it again
}

func ExampleGroup() {
	ctx, c, end := example()
	defer end()

	// Logs that are appended to together say so when they are created.
	for _, name := range []string{"data", "index"} {
		if _, _, err := c.CreateLog(ctx, name, client.LogOptions{ColocationKey: "engine-7"}); err != nil {
			log.Fatal(err)
		}
	}
	both, err := c.Group(c.Log("data"), c.Log("index"))
	if err != nil {
		log.Fatal(err)
	}
	receipts, err := both.Append(ctx,
		client.Part{Records: [][]byte{[]byte(`{"id":7,"name":"pear"}`)}},
		client.Part{Records: [][]byte{[]byte("name=pear -> 7"), []byte("id=7 -> 7")}},
	)
	if err != nil {
		log.Fatal(err) // neither log has any of it
	}
	fmt.Println("data at LSN", receipts[0].LSN, "and index at LSN", receipts[1].LSN, "to", receipts[1].Through)
	// Output: data at LSN 1 and index at LSN 1 to 2
}
