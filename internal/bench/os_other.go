//go:build !linux

package bench

import "errors"

// preallocate has no portable spelling.
func preallocate(string, int64) error { return errors.ErrUnsupported }

// takesDirect: there is no O_DIRECT.
func takesDirect(string) bool { return false }
