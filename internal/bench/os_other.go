//go:build !linux

package bench

import (
	"errors"
	"time"
)

// preallocate has no portable spelling.
func preallocate(string, int64) error { return errors.ErrUnsupported }

// takesDirect: there is no O_DIRECT.
func takesDirect(string) bool { return false }

// evict has no portable spelling.
func evict(string) error { return errors.ErrUnsupported }

// sleepExactly has no portable spelling.
func sleepExactly() {}

func sleep(d time.Duration) { <-time.NewTimer(d).C }
