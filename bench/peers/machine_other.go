//go:build !linux

package main

import (
	"runtime"

	"golang.org/x/sys/unix"
)

func syncFS(string) error {
	unix.Sync()
	return nil
}

func kernel() string { return runtime.GOOS }

func processor() string { return runtime.GOARCH }

func fileSystem(string) string { return "unknown" }

func loadAverage() float64 { return 0 }
