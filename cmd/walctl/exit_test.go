package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/spf13/cobra"

	"github.com/walsvc/walsvc/client"
	"github.com/walsvc/walsvc/wal"
)

func TestErrorsHaveACodeAndANextStep(t *testing.T) {
	for _, test := range []struct {
		err  error
		code int
		next string // must be part of it; "-" means that there is none
	}{
		{usagef("no"), exitUsage, "walctl help"},
		{&failure{code: exitFailed, err: errors.New("x"), next: "do y"}, exitFailed, "do y"},
		{fmt.Errorf("get: %w", client.ErrLogNotFound), exitNotFound, "walctl log create"},
		{&client.Error{Reason: "LOG_NOT_FOUND"}, exitNotFound, "walctl log create"},
		{&client.Error{Reason: "QUOTA"}, exitFailed, "checkpoints forward"}, // the service's own hint
		{client.ErrUnavailable, exitUnavailable, "unix:here"},
		{fmt.Errorf("open: %w: tls: certificate required", client.ErrUnavailable), exitUnavailable, "unix:here answers, but TLS"},
		{fmt.Errorf("open: %w: write: %w", client.ErrUnavailable, syscall.EPIPE), exitUnavailable, "ends the connection"},
		{fmt.Errorf("open: %w: %w", client.ErrUnavailable, syscall.EACCES), exitUnavailable, "as the user that walsvc runs as"},
		{fmt.Errorf("append: %w: %w", client.ErrUnknownOutcome, client.ErrUnavailable), exitFailed, "walctl resolve"},
		{client.ErrDataLoss, exitDamage, "walctl verify"},
		{wal.ErrDamaged, exitDamage, "walctl verify"},
		{context.DeadlineExceeded, exitUnavailable, "unix:here"},
		{errors.New("something"), exitFailed, "-"},
	} {
		g := &globals{addr: "unix:here", started: true}
		f := g.explain(test.err)
		if f.code != test.code || test.next != "-" && !strings.Contains(f.next, test.next) || test.next == "-" && f.next != "" {
			t.Errorf("%v: exit code %d, next %q; want %d, %q", test.err, f.code, f.next, test.code, test.next)
		}
	}
}

func TestReport(t *testing.T) {
	root, g := newRoot()
	var out, err bytes.Buffer
	root.SetOut(&out)
	root.SetErr(&err)
	g.started = true
	if code := g.report(root, nil); code != exitOK || err.Len() > 0 {
		t.Errorf("no error: exit code %d, %q", code, err.String())
	}
	if code := g.report(root, usagef("--lsn is missing")); code != exitUsage {
		t.Errorf("usage: exit code %d", code)
	}
	if want := "walctl: --lsn is missing\nnext: see walctl help\n"; err.String() != want || out.Len() > 0 {
		t.Errorf("%q on standard error, %q on standard output", err.String(), out.String())
	}

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	root.SetContext(ctx)
	err.Reset()
	if code := g.report(root, errors.New("line 5")); code != exitInterrupted || err.String() != "walctl: interrupted: line 5\n" {
		t.Errorf("interrupted: exit code %d, %q", code, err.String())
	}
}

// Every command says what it does, takes only what it says, and documents its
// JSON.
func TestEveryCommandIsDocumented(t *testing.T) {
	for _, cmd := range allCommands(newRootCommand()) {
		if cmd.Short == "" {
			t.Errorf("%s has no short help", cmd.CommandPath())
		}
		if cmd.HasSubCommands() || !cmd.Runnable() || cmd.Hidden {
			continue
		}
		if cmd.Args == nil {
			t.Errorf("%s takes any arguments", cmd.CommandPath())
		}
		if !strings.Contains(cmd.Long, "JSON") {
			t.Errorf("%s does not say what its JSON is", cmd.CommandPath())
		}
	}
}

func allCommands(cmd *cobra.Command) []*cobra.Command {
	all := []*cobra.Command{cmd}
	for _, c := range cmd.Commands() {
		all = append(all, allCommands(c)...)
	}
	return all
}

// Scripts may rely on the keys of the JSON, so each command's help has all of them.
func TestEveryKeyIsDocumented(t *testing.T) {
	root := newRootCommand()
	elsewhere := map[string][]string{
		"checkpoint list": {"state"}, // only get has it
		"checkpoint set":  {"state"},
		"log delete":      {"checkpoint"},
		"repair":          keysOf(reflect.TypeFor[verifyDamage]()), // "as of verify"
	}
	for path, prints := range map[string][]any{
		"append":            {appendResult{}, togetherResult{}},
		"certify":           {certifyResult{}, runResult{}, witnessResult{}},
		"checkpoint delete": {deletedResult{}},
		"checkpoint get":    {checkpointResult{}},
		"checkpoint list":   {checkpointList{}},
		"checkpoint set":    {checkpointResult{}},
		"contract":          {contractResult{}},
		"cursor delete":     {deletedCursor{}},
		"cursor get":        {cursorResult{}},
		"cursor list":       {cursorList{}},
		"cursor set":        {cursorResult{}},
		"demo":              {demoResult{}},
		"disk":              {diskResult{}},
		"dump":              {dumpFrame{}, dumpStats{}},
		"explain":           {explainResult{}},
		"holders":           {holderList{}},
		"log create":        {createdResult{}},
		"log delete":        {deletedResult{}},
		"log get":           {gotResult{}},
		"log list":          {logList{}},
		"producer list":     {producerList{}},
		"producer retire":   {retiredResult{}},
		"repair":            {repairResult{}},
		"replay":            {recordResult{}},
		"resolve":           {resolveResult{}},
		"rewind":            {rewindResult{}},
		"seal":              {logResult{}},
		"status":            {statusResult{}},
		"tail":              {recordResult{}},
		"truncate":          {logResult{}},
		"verify":            {verifyResult{}},
		"verify-receipt":    {receiptResult{}},
		"version":           {versionResult{}},
		"writer acquire":    {writerResult{}},
		"writer fence":      {writerResult{}},
		"writer list":       {writerList{}},
		"writer release":    {writerResult{}},
	} {
		cmd, rest, err := root.Find(strings.Fields(path))
		if err != nil || len(rest) > 0 {
			t.Errorf("no command %q: %v", path, err)
			continue
		}
		for _, v := range prints {
			for _, key := range keysOf(reflect.TypeOf(v)) {
				if !slices.Contains(elsewhere[path], key) && !regexp.MustCompile(`\b`+key+`\b`).MatchString(cmd.Long) {
					t.Errorf("%s does not say that its JSON has %q", path, key)
				}
			}
		}
	}
}

// keysOf returns the keys of what encodes as JSON, those within included.
func keysOf(t reflect.Type) (keys []string) {
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice:
		return keysOf(t.Elem())
	case reflect.Map:
		return keysOf(t.Elem()) // its own keys are data
	case reflect.Struct:
	default:
		return nil
	}
	for f := range t.Fields() {
		key, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case key == "-" || !f.IsExported() && !f.Anonymous:
			continue
		case key != "":
			keys = append(keys, key)
		}
		keys = append(keys, keysOf(f.Type)...)
	}
	return keys
}
