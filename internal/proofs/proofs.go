// Package proofs knows what proofs need of the machine that they run on, and
// sees to it that none is left out in silence.
//
// A test that needs a right or a device that not every machine has says so
// first:
//
//	proofs.Need(t, proofs.FUSE)
//
// Where the machine lacks it the test is skipped, and says why. With
// WALSVC_PROOFS=required in the environment, as .ci/run sets it, the test fails
// there, unless testdata/proofs.txt lists it with a reason. TestMachine
// prints what there is of everything, for those who read no skips.
//
// What is tried is the machine and not the test: whoever is told that something
// is there and then finds that it does not work has found a failure.
package proofs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// A Thing is what a machine has or lacks. Its text is its name in testdata/proofs.txt.
type Thing string

const (
	// Root is the user ID 0. Most who think that they need it need Mount.
	Root Thing = "root"
	// Mount is the right to mount: a tmpfs, and to remount it.
	Mount Thing = "mount"
	// FUSE is a file system that a process of ours answers for, mounted as root
	// or by fusermount3.
	FUSE Thing = "fuse"
	// Loop is a loop device, attached to a file by losetup.
	Loop Thing = "loop"
	// Ext4 is an ext4 in a file of the temporary directory: mkfs.ext4, and mount
	// -o loop.
	Ext4 Thing = "ext4"
	// XFS is the same with xfs.
	XFS Thing = "xfs"
	// CPULatency is the right to write /dev/cpu_dma_latency.
	CPULatency Thing = "cpu-latency"
)

// probes try, once in a process, what the machine has of everything. They return
// what is lacking.
var probes = map[Thing]func() error{
	Root:  sync.OnceValue(probeRoot),
	Mount: sync.OnceValue(probeMount),
	FUSE:  sync.OnceValue(probeFUSE),
	Loop:  sync.OnceValue(probeLoop),
	Ext4:  sync.OnceValue(func() error { return probeImage("ext4", 16<<20) }),
	XFS:   sync.OnceValue(func() error { return probeImage("xfs", 300<<20) }), // mkfs.xfs makes none that is smaller

	CPULatency: sync.OnceValue(probeCPULatency),
}

// Need goes on if the machine has everything that is asked for. Else it ends the
// test as skipped, or as failed where proofs are required.
func Need(t testing.TB, needs ...Thing) {
	t.Helper()
	for _, n := range needs {
		probe := probes[n]
		if probe == nil {
			t.Fatalf("there is no thing %q to need", n)
		}
		lacking := probe()
		if lacking == nil {
			continue
		}
		l, err := readListing()
		if err != nil {
			t.Fatal(err)
		}
		if err := l.judge(n, lacking, required()); err != nil {
			t.Fatal(err)
		}
		t.Skip(l.say(n, lacking))
	}
}

// variable has the value required where a proof that cannot run is a failure.
const variable = "WALSVC_PROOFS"

func required() bool { return os.Getenv(variable) == "required" }

// file lists what machines may lack, from the root of the
// repository.
const file = "testdata/proofs.txt"

// ErrNotListed says that a machine lacks what required proofs need, and that no
// line of testdata/proofs.txt excuses it.
var ErrNotListed = errors.New("a required proof cannot run")

// A listing has the reasons why a need may be lacking.
type listing map[Thing]string

// judge returns ErrNotListed if it is a failure that something is lacking.
func (l listing) judge(n Thing, lacking error, required bool) error {
	if !required || l[n] != "" {
		return nil
	}
	return fmt.Errorf("%w: this machine lacks %s: %w; give it what it lacks, or list %s in %s with the reason",
		ErrNotListed, n, lacking, n, file)
}

// say is for people.
func (l listing) say(n Thing, lacking error) string {
	s := fmt.Sprintf("this machine lacks %s: %v", n, lacking)
	if reason := l[n]; reason != "" {
		s += fmt.Sprintf("; %s says why it may: %s", file, reason)
	}
	return s
}

// readListing finds the file above the directory that a test runs in: modules
// that are apart share it.
func readListing() (listing, error) {
	dir, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	for {
		text, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(file)))
		if err == nil {
			return parseListing(string(text))
		}
		parent := filepath.Dir(dir)
		if !errors.Is(err, os.ErrNotExist) || parent == dir {
			return nil, fmt.Errorf("find %s above the working directory: %w", file, err)
		}
		dir = parent
	}
}

// parseListing reads lines of the form "name: reason", comments and empty lines.
func parseListing(text string) (listing, error) {
	l := listing{}
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, reason, _ := strings.Cut(line, ":")
		n, reason := Thing(strings.TrimSpace(name)), strings.TrimSpace(reason)
		switch {
		case probes[n] == nil:
			return nil, fmt.Errorf("%s:%d: there is no thing %q to need", file, i+1, n)
		case reason == "":
			return nil, fmt.Errorf("%s:%d: %s has no reason", file, i+1, n)
		case l[n] != "":
			return nil, fmt.Errorf("%s:%d: %s is listed twice", file, i+1, n)
		}
		l[n] = reason
	}
	return l, nil
}

// all returns everything in the order that people read them in.
func all() []Thing {
	var out []Thing
	for n := range probes {
		out = append(out, n)
	}
	slices.Sort(out)
	return out
}
