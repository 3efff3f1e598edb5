// Package cmd_test runs walsvc and walctl as their users do: as processes, by
// the scripts in testdata/scripts.
package cmd_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"

	"github.com/walsvc/walsvc/internal/service"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// limit bounds what a script waits for; it is only reached when something is broken.
const limit = 30 * time.Second

// TestScripts runs testdata/scripts. Beside what testscript knows they use
//
//	serve [FLAG]...      start walsvc on $WORK/v with those flags, on the Unix
//	                     socket that walctl is told of; again after kill-9 or shutdown
//	                     if it listens on TCP as well, $TCP is where
//	kill-9               end it with SIGKILL
//	shutdown             end it with SIGTERM, which must go well
//	exits CODE PROGRAM [ARGUMENT]...
//	                     run a program that must exit with a code
//	until FILE REGEXP    wait until a file says something
//	certificates         write ca.pem, and cert.pem with key.pem, which it signed
//	                     for localhost and for whoever calls from there
//	keep NAME REGEXP     set a variable to what matches in the last output
func TestScripts(t *testing.T) {
	dependOnSources(t)
	bin := t.TempDir()
	out, err := exec.Command("go", "build", "-o", bin, "./walsvc", "./walctl").CombinedOutput()
	if err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	testscript.Run(t, testscript.Params{
		Dir: filepath.Join("..", "testdata", "scripts"),
		// The paths of sockets are at most 107 bytes long.
		WorkdirRoot: shortDir(t),
		Setup: func(e *testscript.Env) error {
			e.Setenv("PATH", bin+string(os.PathListSeparator)+e.Getenv("PATH"))
			e.Setenv("WALSVC_ADDR", "unix:"+filepath.Join(e.WorkDir, "v", "walsvc.sock"))
			h := &host{binary: filepath.Join(bin, "walsvc"), dir: filepath.Join(e.WorkDir, "v")}
			e.Values[hostKey{}] = h
			e.Defer(h.kill)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"serve":    serve,
			"kill-9":   kill9,
			"shutdown": shutdown,
			"exits":    exits,
			"until":    until,
			"keep":     keep,

			"certificates": certificates,
		},
	})
}

// TestScriptsRunToTheirEnds: what testscript has of its own goes before what we
// add to it, and some of that ends a script early as if all were well.
func TestScriptsRunToTheirEnds(t *testing.T) {
	paths, err := filepath.Glob("../testdata/scripts/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatalf("%d scripts, %v", len(paths), err)
	}
	early := regexp.MustCompile(`(?m)^(stop|skip)\b`)
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if found := early.Find(text); found != nil {
			t.Errorf("%s ends at %q: the service's is shutdown", path, found)
		}
	}
}

// dependOnSources looks at every source file of the module: go test takes a
// result from its cache unless a file that the test looked at has changed, and
// does not know what the go command below it reads.
func dependOnSources(t *testing.T) {
	t.Helper()
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && d.Name() != ".." && d.Name()[0] == '.' {
			return filepath.SkipDir
		}
		if err == nil && filepath.Ext(path) == ".go" {
			_, err = os.Stat(path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ws-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// A host is where a script's service runs.
type host struct {
	binary, dir string
	process     *service.Process
}

type hostKey struct{}

func (h *host) kill() {
	if h.process != nil {
		_ = h.process.Kill() // it may have ended by itself
	}
	h.process = nil
}

func hostOf(ts *testscript.TestScript, neg bool, args []string, want bool) *host {
	if neg || len(args) != 0 && !want {
		ts.Fatalf("wrong usage")
	}
	return ts.Value(hostKey{}).(*host)
}

func serve(ts *testscript.TestScript, neg bool, args []string) {
	h := hostOf(ts, neg, args, true)
	h.kill()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	p, err := service.Start(ctx, service.Options{Binary: h.binary, Dir: h.dir, Args: args, Reads: true})
	ts.Check(err)
	h.process = p
	if m := readyTCP.FindStringSubmatch(p.Said()); m != nil {
		ts.Setenv("TCP", m[1])
	}
}

var readyTCP = regexp.MustCompile(`ready tcp:(\S+)`)

func kill9(ts *testscript.TestScript, neg bool, args []string) { hostOf(ts, neg, args, false).kill() }

func shutdown(ts *testscript.TestScript, neg bool, args []string) {
	h := hostOf(ts, neg, args, false)
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	ts.Check(h.process.Stop(ctx))
	h.process = nil
}

func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM [ARGUMENT]...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		e, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			ts.Fatalf("%v", err)
		}
		got = e.ExitCode()
	}
	if got != want {
		ts.Fatalf("%s exited with %d, not %d", args[1], got, want)
	}
}

func until(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: until FILE REGEXP")
	}
	re, err := regexp.Compile(args[1])
	ts.Check(err)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); <-tick.C {
		b, err := os.ReadFile(ts.MkAbs(args[0]))
		if err == nil && re.Match(b) {
			return
		}
	}
	ts.Fatalf("%s does not say %q", args[0], args[1])
}

func keep(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: keep NAME REGEXP")
	}
	re, err := regexp.Compile(args[1])
	ts.Check(err)
	m := re.FindStringSubmatch(ts.ReadFile("stdout"))
	if len(m) != 2 {
		ts.Fatalf("%q does not match with one group", args[1])
	}
	ts.Setenv(args[0], fmt.Sprint(m[1]))
}

func certificates(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: certificates")
	}
	authority := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	authorityKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ts.Check(err)
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "localhost"}, NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"localhost"}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	leafKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ts.Check(err)
	ca, err := x509.CreateCertificate(rand.Reader, authority, authority, authorityKey.Public(), authorityKey)
	ts.Check(err)
	cert, err := x509.CreateCertificate(rand.Reader, leaf, authority, leafKey.Public(), authorityKey)
	ts.Check(err)
	key, err := x509.MarshalPKCS8PrivateKey(leafKey)
	ts.Check(err)
	for name, block := range map[string]*pem.Block{
		"ca.pem":   {Type: "CERTIFICATE", Bytes: ca},
		"cert.pem": {Type: "CERTIFICATE", Bytes: cert},
		"key.pem":  {Type: "PRIVATE KEY", Bytes: key},
	} {
		ts.Check(os.WriteFile(ts.MkAbs(name), pem.EncodeToMemory(block), 0o600))
	}
}
