// Package lint holds the rules of the house that no linter knows, as tests, so
// that `go test ./...` is the only command to remember: which package may
// import which and why, what every package and every test has, and that the
// documents speak of what exists.
//
// It has no code of its own. The tests read the sources as text: what holds for
// the file of another operating system is checked on this one too.
package lint
