package process

import (
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A program has none of the settings of who runs it, is in a group of its own, and
// tells how it ended.
func TestStart(t *testing.T) {
	t.Setenv("WALSVC_DATA", "the user's own")
	t.Setenv("PGDATA", "the user's own")
	var said Tail
	cmd := exec.Command("sh", "-c", `echo "($WALSVC_DATA$PGDATA$OURS)"; exit 3`)
	cmd.Env, cmd.Stdout = []string{"OURS=ours"}, &said
	p, err := Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	<-p.Exited()
	if got := said.String(); got != "\n  | (ours)" {
		t.Errorf("it said %q", got)
	}
	if p.Err() == nil || p.Cmd.ProcessState.ExitCode() != 3 {
		t.Errorf("it ended with %v", p.Err())
	}
	if err := p.Kill(); err != nil {
		t.Errorf("killing what is gone: %v", err)
	}
}

func TestKill(t *testing.T) {
	p, err := Start(exec.Command("cat", "/dev/zero"))
	if err != nil {
		t.Fatal(err)
	}
	if group, err := syscall.Getpgid(p.Cmd.Process.Pid); err != nil || group != p.Cmd.Process.Pid {
		t.Errorf("it is in group %d, %v", group, err)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.Exited():
	default:
		t.Error("it is not gone")
	}
	if _, err := Start(exec.Command("/no/such/program")); err == nil || !strings.Contains(err.Error(), "start /no/such/program") {
		t.Errorf("started nothing: %v", err)
	}
}

func TestTailIsBounded(t *testing.T) {
	var tl Tail
	for i := range 10_000 {
		fmt.Fprintf(&tl, "line %d\n", i)
	}
	fmt.Fprintf(&tl, "%s\nlast\n", strings.Repeat("x", 2*TailSize))
	if got := tl.String(); len(tl.buf) > TailSize || !strings.HasSuffix(got, "\n  | last") {
		t.Errorf("it kept %d bytes: ...%s", len(tl.buf), got[max(0, len(got)-40):])
	}
}
