package service

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// module is the path of this module, and command what it calls the service.
const (
	module  = "github.com/walsvc/walsvc"
	command = "walsvc"
)

// ErrNotFound is returned when there is no walsvc and no way to build one.
var ErrNotFound = errors.New("walsvc not found")

// Find returns the path of a walsvc executable: the explicit one if it is not
// empty; else the one beside this program's own executable; else one built now
// into dir, if the working directory is within walsvc's module and there is Go
// (that is `go run`); else the one in PATH. The order prefers what was built
// together with the caller. building, if not nil, is called before a build,
// which takes seconds.
//
// It returns an error that Is ErrNotFound if nothing is there.
func Find(ctx context.Context, explicit, dir string, building func()) (string, error) {
	if explicit != "" {
		path, err := exec.LookPath(explicit)
		if err != nil {
			return "", fmt.Errorf("%w: %w", ErrNotFound, err)
		}
		return filepath.Abs(path)
	}
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), command)
		if executable(beside) {
			return beside, nil
		}
	}
	if withinModule(ctx) {
		if building != nil {
			building()
		}
		return Build(ctx, dir)
	}
	if path, err := exec.LookPath(command); err == nil {
		return filepath.Abs(path)
	}
	return "", ErrNotFound
}

// Build builds walsvc from the module that the working directory is in, and
// returns its path in dir.
func Build(ctx context.Context, dir string) (string, error) {
	path := filepath.Join(dir, command)
	out, err := exec.CommandContext(ctx, "go", "build", "-o", path, module+"/cmd/walsvc").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build walsvc: %w\n%s", err, out)
	}
	return path, nil
}

func withinModule(ctx context.Context) bool {
	out, err := exec.CommandContext(ctx, "go", "list", "-m").Output()
	return err == nil && strings.TrimSpace(string(out)) == module
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}
