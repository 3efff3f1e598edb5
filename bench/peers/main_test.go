package main

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

// TestMain lets this program serve echoes, as the command does.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == echoCommand {
		if err := serveEcho(os.Args[2]); err != nil {
			panic(err)
		}
		return
	}
	goleak.VerifyTestMain(m)
}
