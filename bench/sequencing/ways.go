package main

import (
	"sync"
	"sync/atomic"
)

// window is how many of a caller's appends may be under way where it does not
// wait for each.
const window = 64

// message is how many of them are sequenced under one lock, or done before their
// caller is woken.
const message = window / 2

// A way is who does the step.
type way struct {
	name  string
	start func(*journal) turn
	// base names the way whose throughput this one's is compared with: the inline
	// one of callers that wait as this one's do.
	base string
}

var ways = []way{
	{"inline", inline, "inline"},
	{"owner", owner, "inline"},
	{"drained", drained, "inline"},
	{"goroutine", goroutine, "inline"},
	{"together", together, "together"},
	{"posted", posted, "together"},
}

// A turn is a way under way.
type turn struct {
	// enter takes an append. The verdict is there when it returns, or settle does.
	enter func(*batch)
	// room returns when a caller's next append may be entered, settle when all that
	// it entered have their verdicts; nil where enter waits for that.
	room, settle func(*caller)
	stop         func()
}

// A caller appends to a log of its own, one append after the other.
type caller struct {
	log      uint64
	sequence uint64        // of its last append
	batches  [window]batch // used in turn
	answered chan struct{} // of capacity 1

	// Of ways that do not wait for each.
	entered []*batch // and not sequenced yet
	done    atomic.Uint64
	wakeAt  atomic.Uint64 // what done has to reach for a token in answered
}

func inline(j *journal) turn {
	var mu sync.Mutex
	return turn{
		enter: func(b *batch) {
			mu.Lock()
			j.sequence(b)
			mu.Unlock()
		},
		stop: func() {},
	}
}

func together(j *journal) turn {
	var mu sync.Mutex
	settle := func(c *caller) {
		mu.Lock()
		for _, b := range c.entered {
			j.sequence(b)
		}
		mu.Unlock()
		c.entered = c.entered[:0]
	}
	return turn{
		enter: func(b *batch) { b.from.entered = append(b.from.entered, b) },
		room: func(c *caller) {
			if len(c.entered) == message {
				settle(c)
			}
		},
		settle: settle,
		stop:   func() {},
	}
}

// queued is how many appends fit the owner's channel: all that there may be, so
// that nobody waits for room.
const queued = 1024

func owner(j *journal) turn {
	come := make(chan *batch, queued)
	var self sync.WaitGroup
	self.Go(func() {
		for b := range come {
			j.sequence(b)
			b.from.answered <- struct{}{}
		}
	})
	return turn{
		enter: func(b *batch) {
			come <- b
			<-b.from.answered
		},
		stop: func() {
			close(come)
			self.Wait()
		},
	}
}

func goroutine(j *journal) turn {
	t := inline(j)
	sequence := t.enter
	carry := func(b *batch) {
		sequence(b)
		b.from.answered <- struct{}{}
	}
	t.enter = func(b *batch) {
		go carry(b)
		<-b.from.answered
	}
	return t
}

func drained(j *journal) turn {
	t := drain(j, func(c *caller) { c.answered <- struct{}{} })
	post := t.enter
	t.enter = func(b *batch) {
		post(b)
		<-b.from.answered
	}
	return t
}

func posted(j *journal) turn {
	t := drain(j, func(c *caller) {
		if done := c.done.Add(1); done == c.wakeAt.Load() {
			select {
			case c.answered <- struct{}{}:
			default: // a token that nobody needed is there: see wait
			}
		}
	})
	t.room = func(c *caller) {
		if c.sequence-c.done.Load() == window {
			c.wait(c.sequence - window + message)
		}
	}
	t.settle = func(c *caller) { c.wait(c.sequence) }
	return t
}

// wait returns when so many appends are done. The token of an earlier wait may
// still be there, if what it waited for was done just when it began to.
func (c *caller) wait(done uint64) {
	c.wakeAt.Store(done)
	for c.done.Load() < done {
		<-c.answered
	}
}

// drain starts a goroutine that owns the journal and takes all that is queued in
// one go.
func drain(j *journal, answer func(*caller)) turn {
	var (
		mu    sync.Mutex
		queue []*batch
		come  = make(chan struct{}, 1) // has a token if somebody queued since it was looked at
		self  sync.WaitGroup
	)
	self.Go(func() {
		var taken []*batch
		for range come {
			mu.Lock()
			taken, queue = queue, taken[:0]
			mu.Unlock()
			for _, b := range taken {
				j.sequence(b)
				answer(b.from)
			}
		}
	})
	return turn{
		enter: func(b *batch) {
			mu.Lock()
			queue = append(queue, b)
			first := len(queue) == 1
			mu.Unlock()
			if !first {
				return // who was first wakes the owner
			}
			select {
			case come <- struct{}{}:
			default:
			}
		},
		stop: func() {
			close(come)
			self.Wait()
		},
	}
}
