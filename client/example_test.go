package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"strconv"

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
