//go:build !linux

package proofs

import "errors"

func probeFUSE() error { return errors.New("it takes Linux") }
