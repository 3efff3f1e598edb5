package main

import (
	"bufio"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"strconv"

	"github.com/hashicorp/raft"
	raftwal "github.com/hashicorp/raft-wal"
	tidwall "github.com/tidwall/wal"
	etcdwal "go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
)

// A journal is a library that keeps a log, as its documentation says to use it.
type journal interface {
	// replay yields every record, by its index from 1.
	replay(yield func(index uint64, data []byte) error) error
	// append makes records durable, the first of them with an index.
	append(first uint64, records [][]byte) error
}

// journals open, and repair as their users do.
var journals = map[string]struct {
	module string
	open   func(dir string) (journal, error)
}{
	"etcd WAL":           {"go.etcd.io/etcd/server/v3", openEtcd},
	"hashicorp/raft-wal": {"github.com/hashicorp/raft-wal", openRaftWAL},
	"tidwall/wal":        {"github.com/tidwall/wal", openTidwall},
}

// childCommand is the first argument of a process that is one of the journals.
const childCommand = "journal"

// child is such a process: it tells what it finds, and once it is told to go, it
// appends until it is killed or fails, and tells what it appends and what is durable.
//
//	found INDEX BASE64    ready    sent N    durable N INDEX
func child(args []string, in io.Reader, out io.Writer) error {
	if len(args) != 3 || journals[args[0]].open == nil {
		return errors.New("want the name of a journal, a directory and the number of a client")
	}
	number, err := strconv.ParseUint(args[2], 10, 32)
	if err != nil {
		return err
	}
	j, err := journals[args[0]].open(args[1])
	if err != nil {
		return err
	}
	found := bufio.NewWriter(out)
	last := uint64(0)
	err = j.replay(func(index uint64, data []byte) error {
		last = index
		_, err := fmt.Fprintf(found, "found %d %s\n", index, base64.StdEncoding.EncodeToString(data))
		return err
	})
	if err != nil {
		return err
	}
	fmt.Fprintln(found, "ready")
	if err := found.Flush(); err != nil {
		return err
	}
	if _, err := in.Read(make([]byte, 1)); err != nil {
		return err
	}
	rng := rand.New(rand.NewPCG(number, 0))
	for n := uint64(1); ; {
		batch := make([][]byte, 1+rng.IntN(8))
		for i := range batch {
			batch[i] = record(recordID{unitID{uint32(number), n + uint64(i)}, 0, 1})
			fmt.Fprintf(out, "sent %d\n", n+uint64(i))
		}
		if err := j.append(last+1, batch); err != nil {
			return err
		}
		for range batch {
			last++
			if _, err := fmt.Fprintf(out, "durable %d %d\n", n, last); err != nil {
				return err
			}
			n++
		}
	}
}

// peerSegment is the size of the libraries' segments in bytes, as small as
// walsvc's here.
const peerSegment = 256 << 10

type etcdJournal struct {
	w       *etcdwal.WAL
	entries []*raftpb.Entry
}

func openEtcd(dir string) (journal, error) {
	etcdwal.SegmentSizeBytes = peerSegment
	log := zap.NewNop()
	dir = filepath.Join(dir, "wal")
	if !etcdwal.Exist(dir) {
		w, err := etcdwal.Create(log, dir, []byte("metadata"))
		return &etcdJournal{w: w}, err
	}
	for repaired := false; ; repaired = true {
		w, err := etcdwal.Open(log, dir, &walpb.Snapshot{})
		if err != nil {
			return nil, err
		}
		_, _, entries, err := w.ReadAll()
		if err == nil {
			return &etcdJournal{w, entries}, nil
		}
		_ = w.Close() // of what could not be read
		// etcd repairs this one, and once.
		if repaired || !errors.Is(err, io.ErrUnexpectedEOF) || !etcdwal.Repair(log, dir) {
			return nil, err
		}
	}
}

func (j *etcdJournal) replay(yield func(uint64, []byte) error) error {
	for _, e := range j.entries {
		if err := yield(e.GetIndex(), e.GetData()); err != nil {
			return err
		}
	}
	return nil
}

func (j *etcdJournal) append(first uint64, records [][]byte) error {
	term := uint64(1)
	entries := make([]*raftpb.Entry, len(records))
	for i, r := range records {
		index := first + uint64(i)
		entries[i] = &raftpb.Entry{Term: &term, Index: &index, Data: r}
	}
	return j.w.Save(&raftpb.HardState{}, entries)
}

type raftJournal struct{ w *raftwal.WAL }

func openRaftWAL(dir string) (journal, error) {
	w, err := raftwal.Open(dir, raftwal.WithSegmentSize(peerSegment))
	return &raftJournal{w}, err
}

func (j *raftJournal) replay(yield func(uint64, []byte) error) error {
	first, err := j.w.FirstIndex()
	if err != nil || first == 0 {
		return err
	}
	last, err := j.w.LastIndex()
	if err != nil {
		return err
	}
	for i := first; i <= last; i++ {
		var l raft.Log
		if err := j.w.GetLog(i, &l); err != nil {
			return fmt.Errorf("get log %d: %w", i, err)
		}
		if err := yield(i, l.Data); err != nil {
			return err
		}
	}
	return nil
}

func (j *raftJournal) append(first uint64, records [][]byte) error {
	logs := make([]*raft.Log, len(records))
	for i, r := range records {
		logs[i] = &raft.Log{Index: first + uint64(i), Term: 1, Data: r}
	}
	return j.w.StoreLogs(logs)
}

type tidwallJournal struct{ l *tidwall.Log }

func openTidwall(dir string) (journal, error) {
	o := *tidwall.DefaultOptions // which syncs every write
	o.SegmentSize = peerSegment
	l, err := tidwall.Open(dir, &o)
	return &tidwallJournal{l}, err
}

func (j *tidwallJournal) replay(yield func(uint64, []byte) error) error {
	first, err := j.l.FirstIndex()
	if err != nil || first == 0 {
		return err
	}
	last, err := j.l.LastIndex()
	if err != nil {
		return err
	}
	for i := first; i <= last; i++ {
		data, err := j.l.Read(i)
		if err != nil {
			return fmt.Errorf("read %d: %w", i, err)
		}
		if err := yield(i, data); err != nil {
			return err
		}
	}
	return nil
}

func (j *tidwallJournal) append(first uint64, records [][]byte) error {
	var b tidwall.Batch
	for i, r := range records {
		b.Write(first+uint64(i), r)
	}
	return j.l.WriteBatch(&b)
}
