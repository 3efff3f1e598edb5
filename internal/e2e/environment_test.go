package e2e_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/walsvc/walsvc/client"
)

// volume makes a volume in dir, with a log of a few records: too much to be moved out
// of the segments that they were appended to.
func volume(t *testing.T, dir string) {
	t.Helper()
	p := start(t, dir, "--segment-size", "64KiB")
	c, err := client.Open(t.Context(), p.Addr(), client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	l := create(t, c, "orders")
	for i := range 40 {
		if _, err := l.Append(t.Context(), fmt.Appendf(nil, "record %d of the volume%s", i, strings.Repeat(".", 1000))); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	stop(t, p)
}

// names lists a directory.
func names(t *testing.T, dir string) (out []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func write(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// newer makes a VOLUME file one of a newer format, whole otherwise.
func newer(t *testing.T, dir string) {
	t.Helper()
	path := filepath.Join(dir, "VOLUME")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	binary.LittleEndian.PutUint32(b[8:], 2)
	binary.LittleEndian.PutUint32(b[60:], crc32.Checksum(b[:60], crc32.MakeTable(crc32.Castagnoli)))
	write(t, path, b)
}

// TestRefusesToStart starts walsvc where it cannot or must not work: it exits
// with a code that says so, tells what is wrong and what to do next, and leaves
// everything as it was.
func TestRefusesToStart(t *testing.T) {
	for _, tc := range []struct {
		name  string
		spoil func(t *testing.T, dir string) []string // the flags besides --data
		fresh bool                                    // dir is not there at first; else it has a volume
		code  int
		says  string // regular expressions, over all of standard error
		next  string // over the line that says what to do next
	}{
		{
			name: "directory is missing", fresh: true, code: 4, says: "no such directory", next: "--create",
		}, {
			name: "directory is empty", fresh: true, code: 4, says: "no VOLUME file; is a file system not mounted", next: "--create",
			spoil: func(t *testing.T, dir string) []string {
				if err := os.Mkdir(dir, 0o700); err != nil {
					t.Fatal(err)
				}
				return nil
			},
		}, {
			name: "directory has somebody else's files", fresh: true, code: 4, says: "no VOLUME file", next: "--create",
			spoil: func(t *testing.T, dir string) []string {
				if err := os.Mkdir(dir, 0o700); err != nil {
					t.Fatal(err)
				}
				write(t, filepath.Join(dir, "notes.txt"), []byte("mine"))
				return nil
			},
		}, {
			name: "directory is a file", fresh: true, code: 2, says: "not a directory", next: "--data",
			spoil: func(t *testing.T, dir string) []string {
				write(t, dir, []byte("a file"))
				return []string{"--create"}
			},
		}, {
			name: "volume is in use", code: 3, says: "in use by another process", next: "stop the other walsvc",
			spoil: func(t *testing.T, dir string) []string {
				start(t, dir)
				return []string{"--socket", filepath.Join(filepath.Dir(dir), "other.sock")}
			},
		}, {
			name: "volume is newer", code: 5, says: "format version 2, this walsvc knows up to 1", next: "newer one",
			spoil: func(t *testing.T, dir string) []string { newer(t, dir); return nil },
		}, {
			name: "VOLUME is zeroed", code: 6, says: "VOLUME file does not verify", next: "walctl verify",
			spoil: func(t *testing.T, dir string) []string {
				write(t, filepath.Join(dir, "VOLUME"), make([]byte, 64))
				return nil
			},
		}, {
			name: "VOLUME is truncated", code: 6, says: "VOLUME file does not verify", next: "walctl verify",
			spoil: func(t *testing.T, dir string) []string {
				if err := os.Truncate(filepath.Join(dir, "VOLUME"), 20); err != nil {
					t.Fatal(err)
				}
				return nil
			},
		}, {
			name: "VOLUME is lost", code: 6, says: "VOLUME file is missing beside segments", next: "walctl verify",
			spoil: func(t *testing.T, dir string) []string {
				if err := os.Remove(filepath.Join(dir, "VOLUME")); err != nil {
					t.Fatal(err)
				}
				return []string{"--create"} // a new VOLUME file would not fit the segments
			},
		}, {
			name: "a file is named almost as a segment", code: 6, says: "2.wal.*malformed file name", next: "move it out of the directory",
			spoil: func(t *testing.T, dir string) []string {
				write(t, filepath.Join(dir, "2.wal"), []byte("garbage"))
				return nil
			},
		}, {
			name: "the socket is in use", code: 3, says: "another process may be serving on it", next: "--socket",
			spoil: func(t *testing.T, dir string) []string {
				path := filepath.Join(filepath.Dir(dir), "busy.sock")
				l, err := net.Listen("unix", path)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = l.Close() }) // nothing was written to it
				return []string{"--socket", path}
			},
		}, {
			name: "the socket is a file", code: 3, says: "something there that is no socket", next: "--socket",
			spoil: func(t *testing.T, dir string) []string {
				path := filepath.Join(filepath.Dir(dir), "file.sock")
				write(t, path, []byte("precious"))
				return []string{"--socket", path}
			},
		}, {
			name: "the socket's path is too long", code: 2, says: "path of [0-9]+ bytes, a socket's has at most 107", next: "--socket",
			spoil: func(_ *testing.T, dir string) []string {
				return []string{"--socket", filepath.Join(filepath.Dir(dir), strings.Repeat("s", 110))}
			},
		}, {
			name: "the TCP address is in use", code: 3, says: "address already in use", next: "--listen",
			spoil: func(t *testing.T, _ string) []string {
				l, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = l.Close() }) // nothing was written to it
				return []string{"--listen", l.Addr().String()}
			},
		}, {
			name: "TCP beyond loopback without TLS", code: 2, says: `"0\.0\.0\.0:7400" is reachable from other machines; set tls-cert`, next: "walsvc help",
			spoil: func(*testing.T, string) []string { return []string{"--listen", "0.0.0.0:7400"} },
		}, {
			name: "TLS beyond loopback for everybody", code: 2, says: `whoever reaches it could read, append and delete; set tls-client-ca`, next: "walsvc help",
			spoil: func(*testing.T, string) []string {
				return []string{"--listen", "0.0.0.0:7400", "--tls-cert", "/nowhere.pem", "--tls-key", "/nowhere.pem"}
			},
		}, {
			name: "TLS with a certificate that is not there", code: 2, says: "no such file", next: "--tls-cert",
			spoil: func(*testing.T, string) []string {
				return []string{"--listen", "127.0.0.1:0", "--tls-cert", "/nowhere.pem", "--tls-key", "/nowhere.pem"}
			},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := filepath.Join(newDir(t), "v")
			if !tc.fresh {
				volume(t, dir)
			}
			args := []string{"--data", dir}
			if tc.spoil != nil {
				args = append(args, tc.spoil(t, dir)...)
			}
			code, said := exits(t, args...)
			next := said[strings.LastIndex(said, "\nnext: ")+1:]
			if code != tc.code || !regexp.MustCompile(tc.says).MatchString(said) || !strings.HasPrefix(next, "next: ") || !strings.Contains(next, tc.next) {
				t.Errorf("exit code %d, want %d; it says\n%s\nwant %q, then %q", code, tc.code, said, tc.says, tc.next)
			}
			if strings.Contains(said, "goroutine ") {
				t.Errorf("it panicked")
			}
			if _, err := os.Stat(filepath.Join(dir, "VOLUME")); tc.fresh && err == nil {
				t.Errorf("it made a volume")
			}
		})
	}
}

// TestStartsBesideStrangers wants files of others in the directory left alone
// and named, a dead socket replaced, and what an unfinished run left removed.
func TestStartsBesideStrangers(t *testing.T) {
	dir := filepath.Join(newDir(t), "v")
	volume(t, dir)
	write(t, filepath.Join(dir, "notes.txt"), []byte("mine"))
	write(t, filepath.Join(dir, "empty"), nil)
	write(t, filepath.Join(dir, "core.tmp"), []byte("not walsvc's"))
	write(t, filepath.Join(dir, "0000000000000009.wal.tmp"), []byte("unfinished"))
	if err := os.Mkdir(filepath.Join(dir, "lost+found"), 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "walsvc.sock"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	p := start(t, dir)
	c := open(t, p)
	if info, err := c.GetLog(t.Context(), "orders"); err != nil || info.Next != 41 {
		t.Errorf("%+v, %v", info, err)
	}
	if _, err := c.Log("orders").Append(t.Context(), []byte("another")); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"notes.txt", "empty", "core.tmp", "lost+found"} {
		if !strings.Contains(p.Said(), name) || !slices.Contains(names(t, dir), name) {
			t.Errorf("%s: not named, or not there any more:%s", name, p.Said())
		}
	}
	if slices.Contains(names(t, dir), "0000000000000009.wal.tmp") {
		t.Error("what was unfinished is still there")
	}
	if info, err := os.Stat(filepath.Join(dir, "walsvc.sock")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v", info, err)
	}
}

// startUnready starts walsvc on a volume that it will not take appends for, so
// that its health service never says SERVING, and returns what it says until it
// listens. It is killed when the test ends.
func startUnready(t *testing.T, dir string) string {
	t.Helper()
	cmd := exec.Command(walsvc, "--data", dir)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may be gone already
		_ = cmd.Wait()         // it was killed
	})
	var said strings.Builder
	lines := bufio.NewScanner(stdout)
	for lines.Scan() {
		fmt.Fprintln(&said, lines.Text())
		if strings.HasPrefix(lines.Text(), "ready ") {
			return said.String()
		}
	}
	t.Fatalf("walsvc ended: it says\n%s", said.String())
	return ""
}

// TestServesWhatDamageLeaves starts walsvc on a volume whose last segment is
// zeroed, garbage, truncated or empty: it serves what is before, and refuses
// appends as READ_ONLY.
func TestServesWhatDamageLeaves(t *testing.T) {
	for name, spoil := range map[string]func(b []byte) []byte{
		"zeroed":    func(b []byte) []byte { return make([]byte, len(b)) },
		"garbage":   func(b []byte) []byte { return []byte(strings.Repeat("garbage!", len(b)/8)) },
		"truncated": func(b []byte) []byte { return b[:4096] },
		"empty":     func([]byte) []byte { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(newDir(t), "v")
			volume(t, dir)
			all := names(t, dir)
			segments := slices.DeleteFunc(all, func(n string) bool { return !strings.HasSuffix(n, ".wal") })
			last := filepath.Join(dir, segments[len(segments)-1])
			b, err := os.ReadFile(last)
			if err != nil {
				t.Fatal(err)
			}
			write(t, last, spoil(b))
			said := startUnready(t, dir)
			c, err := client.Open(t.Context(), filepath.Join(dir, "walsvc.sock"), client.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = c.Close(context.Background()) }() // nothing was appended
			status, err := c.Status(t.Context())
			if err != nil || len(status.GetRecovery().GetDamage()) == 0 || !strings.Contains(said, filepath.Base(last)) {
				t.Errorf("%v, %v; it says\n%s", status, err, said)
			}
			// There may be no state below the damage; what there is can be read.
			if info, err := c.GetLog(t.Context(), "orders"); err == nil && info.Next > 1 {
				if rs, err := c.Log("orders").Read(t.Context(), 1, 1); err != nil || !strings.HasPrefix(string(rs[0].Data), "record 0 of the volume.") {
					t.Errorf("%v, %v", rs, err)
				}
			}
			if _, _, err := c.CreateLog(t.Context(), "new", client.LogOptions{}); !errors.Is(err, client.ErrReadOnly) {
				t.Errorf("create: %v", err)
			}
		})
	}
}

// TestServesWithoutASegment starts walsvc on a volume one of whose segments was
// removed: it names it and serves what is before, and what was in it is DATA_LOSS
// or beyond what is served, never a shorter log that takes appends.
func TestServesWithoutASegment(t *testing.T) {
	const name = "0000000000000002.wal"
	dir := filepath.Join(newDir(t), "v")
	volume(t, dir)
	if err := os.Remove(filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
	said := startUnready(t, dir)
	c, err := client.Open(t.Context(), filepath.Join(dir, "walsvc.sock"), client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close(context.Background()) }() // what was appended was refused
	status, err := c.Status(t.Context())
	if err != nil || len(status.GetRecovery().GetDamage()) == 0 || !strings.Contains(said, name) {
		t.Errorf("%v, %v; it says\n%s", status, err, said)
	}
	if rs, err := c.Log("orders").Read(t.Context(), 1, 1); err != nil || !strings.HasPrefix(string(rs[0].Data), "record 0 of the volume.") {
		t.Errorf("before the hole: %v, %v", rs, err)
	}
	if rs, err := c.Log("orders").Read(t.Context(), 20, 1); !errors.Is(err, client.ErrDataLoss) && !errors.Is(err, client.ErrLSNAhead) {
		t.Errorf("in the hole: %v, %v", rs, err)
	}
	info, err := c.GetLog(t.Context(), "orders")
	if err != nil {
		t.Fatal(err)
	}
	if r, err := c.Log("orders").Append(t.Context(), []byte("x")); err == nil && info.Next != 41 || err != nil && !errors.Is(err, client.ErrReadOnly) {
		t.Errorf("appended at %d where the log had come to 40: %v; it says\n%s", r, err, said)
	}
}
